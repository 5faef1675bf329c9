"""`edgectl status`: the health of a running edged, or why there is none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from edgectl.commands.target_options import chosen_target, target_options, timeout_option
from edgectl.errors import CommandFailed, EdgeError, Unreachable, Usage
from edgectl.output.terminal import console, emit_json, json_option
from edged.api.status import EngineState, ServiceState

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.client import EdgeClient
    from edgectl.client.target import Target
    from edged.api.status import Status

REFRESH_S = 2.0
SYSTEMD_PATIENCE_S = 5.0  # a status must not hang on a service manager that does
LOG_LINES = 8
EXIT_UNHEALTHY = 6
EXIT_NOT_YET = 75


@click.command(
    epilog="""\b
Examples:
  edgectl status
  edgectl status --watch
  edgectl status --json | jq .memory
  edgectl status --url mqtt://broker.local/edged/kitchen

\b
Exit status:
  0 ready · 5 nothing answers · 6 it answers but is not ready · 75 it is starting or loading the model"""
)
@target_options
@timeout_option(10.0, "Longest wait for an answer.")
@click.option("--watch", is_flag=True, help="Show it again every two seconds until Ctrl-C.")
@json_option
def command(url: str | None, key_file: Path | None, timeout_s: float, *, watch: bool, as_json: bool) -> int:
    """Show the health of a running edged.

    State, model, speed, queue, memory against its budget and what enforces it, conditions with what to do
    about them, and what the plan predicted beside what is measured. Over MQTT a box tells less. When this
    computer's own edged does not answer, what systemd knows about it is shown instead.
    """
    from edgectl.client.target import connect

    if watch and as_json:
        raise Usage("--watch is for people", hint="`edgectl top --json` prints one status a line")
    target = chosen_target(url, key_file)
    with connect(target, timeout_s=timeout_s) as client:
        try:
            if watch:
                _watch(client)
            status = client.status()
        except Unreachable as error:
            raise _explained(error, target, named=url is not None) from None
    if as_json:
        emit_json(status)
    else:
        from edgectl.output.status import render

        console().print(render(status))
    return exit_status(status)


def exit_status(status: Status) -> int:
    """What a script gets to see; a degraded box that answers requests is ready."""
    if status.state in {ServiceState.STARTING, ServiceState.LOADING}:
        return EXIT_NOT_YET
    answers = status.state in {ServiceState.READY, ServiceState.DEGRADED}
    return 0 if answers and status.engine in {EngineState.READY, EngineState.UNLOADED} else EXIT_UNHEALTHY


def _watch(client: EdgeClient) -> None:
    """Until interrupted; a box that goes away is shown as gone, and looked for again."""
    from rich.live import Live
    from rich.text import Text

    from edgectl.output.status import render

    with Live(console=console(), auto_refresh=False, screen=False) as live:
        while True:
            try:
                live.update(render(client.status()), refresh=True)
            except EdgeError as error:
                if not error.retryable:
                    raise
                live.update(Text(f"{error.message}\n{error.hint}", style="red"), refresh=True)
            time.sleep(REFRESH_S)


def _explained(error: Unreachable, target: Target, *, named: bool) -> Unreachable:
    """``error`` with what systemd knows about this computer's edged, unless another box was meant."""
    if named or target.source == "EDGECTL_URL":
        return error
    for user in (False, True):
        told = _unit_story(user=user)
        if told:
            return Unreachable(f"{error.message}\n{told}", hint=_next_step(told, user=user))
    return Unreachable(
        error.message, hint="`edgectl install` installs edged here; `--url` names a box somewhere else"
    )


def _unit_story(*, user: bool) -> str:
    """The unit's state and last log lines; empty when systemd knows no unit, or is not there."""
    from edgectl.install.runner import run
    from edgectl.install.systemd import Systemd

    service = Systemd(lambda command, _limit_s: run(command, SYSTEMD_PATIENCE_S), user=user)
    try:
        unit = service.state()
        if unit.load in {"", "not-found"}:
            return ""
        log = service.log_tail(LOG_LINES)
    except CommandFailed:
        return ""
    result = f", result {unit.result}" if unit.result not in {"", "success"} else ""
    story = f"systemd: edged is {unit.active} ({unit.sub}{result}), {unit.restarts} restarts"
    story += f"\n{unit.status_text}" if unit.status_text else ""
    return story + "".join(f"\n  | {line}" for line in log.splitlines())


def _next_step(story: str, *, user: bool) -> str:
    systemctl, flag = ("systemctl --user", " --user") if user else ("sudo systemctl", "")
    if "edged is inactive" in story or "edged is failed" in story:
        return f"`{systemctl} start edged` starts it; `edgectl logs{flag}` shows more"
    return f"`edgectl logs -f{flag}` shows what it is doing"
