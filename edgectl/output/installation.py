"""How an installation looks to a person: what will be done, what was done, what to try next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgectl.client.answer import Answer
from edgectl.install.unit import credential_sources
from edgectl.output.terminal import mib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgectl.device import Note
    from edgectl.install.desired import Desired
    from edgectl.install.host import Proof
    from edgectl.install.operations import Recorded
    from edgectl.install.places import Places
    from edgectl.planning.plan import Plan

WORTH_SAYING = frozenset({"memory-cgroup-off", "psi-off", "swap-on-sd", "under-voltage", "memory-tiny"})
COLUMN = 9


def show_plan(plan: Plan, model_path: Path, *, download: bool) -> None:
    """What was chosen, before anything changes."""
    requests = "1 request" if plan.slots == 1 else f"{plan.slots} requests"
    _line("model", f"{plan.name} {plan.quant}. {plan.reason}")
    _line("serves", f"{requests} at once, {plan.context_tokens:,} tokens of context each")
    _line("limits", f"{mib(plan.worker_budget_bytes)} worker, {mib(plan.unit_memory_max_bytes)} service")
    _line("file", f"{model_path}" + (f" ({mib(plan.file.bytes)} to fetch)" if download else ""))


def show_notes(notes: Sequence[Note]) -> None:
    """Facts of the computer that weaken what is being installed."""
    for note in notes:
        if note.code in WORTH_SAYING:
            _line("note", f"{note.message}" + (f" → {note.hint}" if note.hint else ""))


def show_replaced(problems: Sequence[str], places: Places) -> None:
    """That a configuration which is not valid gives way, and what is wrong with it, if anything is."""
    if problems:
        _line("note", f"{places.config} is not valid and is replaced; it is kept as {places.backup.name}")
        for problem in problems:
            click.echo(f"{'':<{COLUMN}}- {problem}")


def show_dry_run(desired: Desired, steps: Sequence[Recorded], places: Places, *, pull: str) -> None:
    """Every file in full and every step; nothing was changed."""
    for path, text in ((places.config, desired.config_text), (places.unit, desired.unit_text)):
        click.echo(click.style(f"\n--- {path}", bold=True))
        click.echo(text, nl=False)
    click.echo(click.style("\n--- steps", bold=True))
    if pull:
        click.echo(f"fetch {pull} into {places.models}")
    for step in steps:
        click.echo(step.describe())
    click.echo("\nDry run: nothing was changed.")


def show_proof(proof: Proof, plan: Plan) -> None:
    """Predicted beside measured."""
    status, answer = proof.status, proof.answer
    repacked, cache = plan.memory.repacked_bytes, plan.memory.cache_bytes
    _line("state", f"{status.state}: {status.model.name} {status.model.quant} on {status.node}")
    if isinstance(answer, Answer):
        speed = status.decode_tps or answer.tokens_per_s
        measured = f"{speed:.1f}" if speed else "too short to measure"
        _line("answer", repr(answer.text.strip()[:100]))
        _line("speed", f"{measured} tokens/s, predicted {plan.speed.decode_tps:.1f} ({plan.speed.kind})")
    else:
        _line("answer", f"a vector of {len(answer.vectors[0]):,} numbers")
    _line(
        "memory",
        f"{mib(status.memory.worker_anon_bytes)} worker of {mib(plan.worker_budget_bytes)} allowed, "
        f"{mib(plan.memory.anon_bytes - repacked - cache)} predicted with full context"
        + (f", {mib(repacked)} more with repacked weights" if repacked else "")
        + (f", {mib(cache)} with prompts kept" if cache else ""),
    )
    if status.memory.enforced_by:
        _line("limit", f"enforced by {', '.join(status.memory.enforced_by)}")
    for condition in status.conditions:
        _line("note", condition.message + (f" → {condition.hint}" if condition.hint else ""))


def show_next(desired: Desired, places: Places) -> None:
    """Lines to paste."""
    config = desired.config
    embeds = config.model.embeddings
    click.echo("\nTry it:")
    click.echo('  edgectl embed "What is MQTT?"' if embeds else '  edgectl ask "What is MQTT?"')
    if config.http.enabled and not embeds:
        body = '{"messages": [{"role": "user", "content": "What is MQTT?"}]}'
        key = ' -H "Authorization: Bearer $KEY"' if config.http.keys_file else ""
        click.echo(
            f"  curl -s http://127.0.0.1:{config.http.port}/v1/chat/completions{key}"
            f" -H 'Content-Type: application/json' -d {shlex.quote(body)}"
        )
    if config.mqtt.enabled and not embeds:
        where = f"-h {shlex.quote(config.mqtt.host)} -p {config.mqtt.port}"
        if config.mqtt.username:
            where += f' -u {shlex.quote(config.mqtt.username)} -P "$PASSWORD"'
        for option, path in _tls_files(desired):
            where += f" {option} {shlex.quote(path)}"
        node = f"{config.mqtt.base}/{config.node}"
        click.echo(f"  mosquitto_sub {where} -t {node}/answer &")
        click.echo(f"  mosquitto_pub {where} -t {node}/ask -m 'What is MQTT?'")
    log, remove = "edgectl logs", "sudo edgectl uninstall"
    if places.user:
        log, remove = "edgectl logs --user", "edgectl uninstall --user"
    click.echo(f"\nLog: {log}    Remove: {remove}")


def _tls_files(desired: Desired) -> Iterator[tuple[str, str]]:
    """What mosquitto_sub needs for the broker's TLS, with the files that the service's copies come from."""
    sources = credential_sources(desired.unit_text)
    for option, key in (("--cafile", "ca_file"), ("--cert", "cert_file"), ("--key", "key_file")):
        if path := getattr(desired.config.mqtt, key):
            yield option, sources.get(Path(path).name, path)


def _line(name: str, text: str) -> None:
    click.echo(f"{click.style(f'{name:<{COLUMN}}', dim=True)}{text}")
