"""What a person sees: consoles, JSON, byte sizes, durations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

MIB = 1 << 20


def console(*, stderr: bool = False) -> Console:
    """A console for one command; colour and progress only on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=not stream.isatty())


def emit_json(value: Any) -> None:
    """Print ``value`` (msgspec Structs welcome) as indented JSON on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The ``--json`` flag, the same on every command that has something for a script."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def mib(size_bytes: float) -> str:
    """1234567890 → "1,177 MiB"."""
    return f"{size_bytes / MIB:,.0f} MiB"


def size(size_bytes: float) -> str:
    """A size with the unit that suits it, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
