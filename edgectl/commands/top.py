"""`edgectl top`: a running edged, live in the terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import TYPE_CHECKING

import click
import msgspec

from edgectl.commands.target_options import chosen_target, target_options, timeout_option
from edgectl.errors import EdgeError
from edgectl.output.terminal import console, json_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from edgectl.client import EdgeClient
    from edged.api.status import Status

QUIT = b"qQ\x04"  # Ctrl-D, too


@click.command(
    epilog="""\b
Examples:
  edgectl top
  edgectl top --url http://attic.local:8642 --key-file key
  edgectl top --json | jq --unbuffered '.queue'
  edgectl top --json --count 60 > minute.jsonl

Off a terminal it prints one line for each look, without colour."""
)
@target_options
@timeout_option(10.0, "Longest wait for an answer.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True,
    metavar="SECONDS", help="From one look to the next, 0.2 to 3600.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Leave after N looks.")
@json_option
def command(
    url: str | None,
    key_file: Path | None,
    timeout_s: float,
    interval_s: float,
    count: int | None,
    *,
    as_json: bool,
) -> None:
    """Watch a running edged: speed, queue, memory against its limit, heat, conditions.

    The last minutes are drawn as curves. A box that goes away is shown as gone and looked for again.
    q or Ctrl-C leaves. Over MQTT a box tells less, and only every few seconds.
    """
    from edgectl.client.target import connect

    with connect(chosen_target(url, key_file), timeout_s=timeout_s) as client, _interruptible():
        first = client.status()  # a box that is not there at the start is an error and no picture
        looks = _looks(client, first, interval_s, count)
        if as_json:
            _print_json(looks)
        elif sys.stdout.isatty():
            _draw(looks, console())
        else:
            _print_lines(looks)


def line(status: Status, rate: float | None) -> str:
    """One look as one line of text."""
    memory = status.memory
    used = (memory.worker_anon_bytes + memory.worker_swap_bytes) >> 20
    limit = f"/{memory.budget_bytes >> 20}" if memory.budget_bytes else ""
    facts = [
        status.node,
        status.state.value,
        "- tok/s" if rate is None else f"{rate:.1f} tok/s",
        f"{status.running} running",
        f"{status.queue} waiting",
        f"{used}{limit} MiB",
    ]
    if status.host.temperature_c is not None:
        facts.append(f"{status.host.temperature_c:.0f} °C")
    facts += [condition.code for condition in status.conditions]
    return "  ".join(facts)


def _looks(
    client: EdgeClient, first: Status, interval_s: float, count: int | None
) -> Iterator[Status | EdgeError]:
    """A status each ``interval_s``, or why there is none; ends after ``count``, or when q is pressed."""
    status: Status | EdgeError = first
    number = 0
    with _keys() as quit_within:
        while True:
            due_s = time.monotonic() + interval_s
            yield status
            number += 1
            if number == count or quit_within(max(0.0, due_s - time.monotonic())):
                return
            try:
                status = client.status()
            except EdgeError as error:
                if not error.retryable:
                    raise
                status = error


def _draw(looks: Iterator[Status | EdgeError], screen: Console) -> None:
    from rich.live import Live
    from rich.text import Text

    from edgectl.output.top import Trail

    trail = Trail()
    with Live(console=screen, auto_refresh=False, screen=True) as live:
        for look in looks:
            if isinstance(look, EdgeError):
                live.update(Text(f"{look.message}\n{look.hint}\n\nq leaves", style="red"), refresh=True)
            else:
                trail.add(look)
                live.update(trail.picture(look, screen.width, "q leaves"), refresh=True)


def _print_json(looks: Iterator[Status | EdgeError]) -> None:
    for look in looks:
        told = (
            {"error": {"code": look.code, "message": look.message}} if isinstance(look, EdgeError) else look
        )
        click.echo(msgspec.json.encode(told))
        sys.stdout.flush()


def _print_lines(looks: Iterator[Status | EdgeError]) -> None:
    from edgectl.output.top import Trail

    trail = Trail()
    for look in looks:
        if isinstance(look, EdgeError):
            click.echo(look.message)
        else:
            click.echo(line(look, trail.add(look).tokens_per_s))
        sys.stdout.flush()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is how one leaves; nothing went wrong."""
    with contextlib.suppress(KeyboardInterrupt):
        yield


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Waits for so many seconds and says whether a key to leave was pressed; without a terminal none is."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield _sleep
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _pressed(seconds: float) -> bool:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left_s)
        if ready:
            typed = os.read(sys.stdin.fileno(), 1)
            if not typed or typed in QUIT:
                return True
    return False
