"""Shows how a long copy goes: a bar on a terminal, a line now and then elsewhere, JSON for programs."""

from __future__ import annotations

import functools
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click
import msgspec

from edgectl.errors import EdgeError
from edgectl.output.terminal import console, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

EVENT_EVERY_S = 1.0
LINE_EVERY_S = 10.0  # a log of a two-hour download has some hundred lines


class TransferReport(Protocol):
    """What a transfer tells; people read it on standard error, programs on standard output."""

    def progress(self, done_bytes: int, total_bytes: int | None) -> None: ...

    def say(self, sentence: str) -> None: ...


@contextmanager
def transfer_report(label: str, *, as_json: bool = False) -> Iterator[TransferReport]:
    """A report for one transfer, in the shape that suits standard error, or as lines of JSON."""
    if as_json:
        yield JsonReport()
        return
    if not sys.stderr.isatty():
        yield LineReport(label)
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield BarReport(bar, bar.add_task(escape(label), total=None))


class BarReport:
    """A bar on a terminal."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        self._bar.update(self._task, completed=done_bytes, total=total_bytes)

    def say(self, sentence: str) -> None:
        self._bar.console.print(sentence, markup=False)


def emit_event(event: str, **facts: object) -> None:
    """One line of JSON on standard output, at once."""
    click.echo(msgspec.json.encode({"event": event, **facts}).decode())
    sys.stdout.flush()


def json_outcome(command: Callable[..., Any]) -> Callable[..., Any]:
    """Tell with ``--json`` why a command failed as an event "failed", besides the usual words."""

    @functools.wraps(command)
    def told(*args: Any, as_json: bool, **options: Any) -> Any:
        try:
            return command(*args, as_json=as_json, **options)
        except EdgeError as error:
            if as_json:
                emit_event("failed", code=error.code, message=error.message, hint=error.hint)
            raise

    return told


class JsonReport:
    """One JSON object a line, for programs: events "progress" (once a second at most) and "note"."""

    def __init__(self) -> None:
        self._said_at_s = 0.0

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        now_s = time.monotonic()
        if now_s - self._said_at_s >= EVENT_EVERY_S or done_bytes == total_bytes:
            self._said_at_s = now_s
            emit_event("progress", done_bytes=done_bytes, total_bytes=total_bytes)

    def say(self, sentence: str) -> None:
        emit_event("note", message=sentence)


class LineReport:
    """Plain lines for logs and pipes."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._said_at_s = time.monotonic()
        self._said_bytes: int | None = None

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        now_s = time.monotonic()
        if self._said_bytes is None:  # bytes of an earlier run say nothing about the rate
            self._said_bytes = done_bytes
        if now_s - self._said_at_s < LINE_EVERY_S:
            return
        rate = (done_bytes - self._said_bytes) / (now_s - self._said_at_s)
        part = f"{done_bytes / total_bytes:.0%} of {size(total_bytes)}" if total_bytes else size(done_bytes)
        click.echo(f"{self._label}: {part}, {size(max(0.0, rate))}/s", err=True)
        self._said_at_s, self._said_bytes = now_s, done_bytes

    def say(self, sentence: str) -> None:
        click.echo(sentence, err=True)
