"""`edgectl probe`: show what this computer is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgectl.errors import NotFound
from edgectl.output.terminal import console, emit_json, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from edgectl.device import Device
    from edgectl.probe import DeviceProfile

EPILOG = """\b
Examples:
  edgectl probe                          this computer, for people
  edgectl probe --path /mnt/ssd/models   as above, judging another place for models
  edgectl probe --json | jq .notes       what will hurt, for scripts

The JSON carries "schema": it is raised when a field changes its meaning. Every note has a stable "code".
Nothing is changed and nothing needs root; what cannot be read is left out or noted."""


@click.command(epilog=EPILOG)
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Judge the storage of DIR instead of the model store; it need not exist yet.",
)
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@json_option
def command(path: Path | None, root: Path, *, as_json: bool) -> None:
    """Show what this computer is: board, CPU, memory, storage, heat.

    Reads /proc, /sys and /etc, finds the profile that matches best, and lists below the facts what
    will hurt a language model here (limits that cannot be enforced, heat, weak power, slow storage)
    together with what to do about it.
    """
    from edgectl.probe import find_profile, probe_device

    if not root.is_dir():
        raise NotFound(
            f"{root} is not a folder", hint="--root takes a recorded tree with proc/, sys/ and etc/"
        )
    device = probe_device(root, path=path)
    if as_json:
        emit_json(device)
    else:
        show(device, find_profile(device.profile) if device.profile else None)


def show(device: Device, profile: DeviceProfile | None) -> None:
    """Print ``device`` for a person: facts in a table, notes with hints below."""
    from rich.markup import escape

    from edgectl.output.device import describe

    out = console()
    facts = _columns(gap=2)
    for name, lines in describe(device, profile):
        for index, line in enumerate(lines):
            facts.add_row("" if index else f"[bold]{name}[/]", escape(line))
    out.print(facts)
    if not device.notes:
        out.print("\n[green]Nothing here gets in the way of a model.[/]")
        return
    notes = _columns(gap=1)
    for note in device.notes:
        notes.add_row("[yellow]•[/]", f"{escape(note.message)} [dim]({note.code})[/]")
        if note.hint:
            notes.add_row("", f"→ {escape(note.hint)}")
    out.print("\n[bold]Notes[/]")
    out.print(notes)


def _columns(*, gap: int) -> Table:
    """A borderless table of a narrow and a folding column."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, gap, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
