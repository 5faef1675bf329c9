"""Shows a calibration while it runs and when it is done."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgectl.output.terminal import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from edgectl.planning.calibration import Calibration

__all__ = ["calibration_progress", "show_calibration"]

DISTURBED = 0.25  # a quiet computer repeats a step within a few percent


@contextmanager
def calibration_progress(seconds: float) -> Iterator[Callable[[float, str], None]]:
    """What to call with the share that is done and what is timed; a bar on a terminal, one line elsewhere."""
    if not sys.stderr.isatty():
        click.echo(f"measuring for about {seconds:.0f} s", err=True)
        yield lambda _share, _label: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("measuring"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, label: bar.update(task, completed=share, description=label)


def show_calibration(to: Console, calibration: Calibration, path: Path) -> None:
    """The figures that plans will use, and where they are kept."""
    from rich.table import Table

    tried = ", ".join(f"{count}: {tps:.0f}" for count, tps in sorted(calibration.tried_threads_tps.items()))
    to.print(f"Threads    {calibration.threads}  (tokens/s of a small replica with {tried})", markup=False)
    to.print(f"Engine     {calibration.engine}{'' if calibration.repack else ', without repacking'}")
    to.print(f"Took       {calibration.took_s:.0f} s, load before {calibration.load_average:.1f}")
    table = Table(box=None, pad_edge=False)
    table.add_column("Weights")
    table.add_column("decode GB/s", justify="right")
    table.add_column("prefill GB/s × tokens", justify="right")
    prefill = calibration.prefill_bytes_per_s()
    for name, rate in sorted(calibration.bandwidths_bytes_per_s().items()):
        pace = f"{prefill[name] / 1e9:.0f}" if name in prefill else "-"
        table.add_row(name, f"{rate / 1e9:.1f}", pace)
    to.print(table)
    if calibration.spread > DISTURBED:
        to.print(
            f"The same step took up to {calibration.spread:.0%} longer at times: something else was busy. "
            "Repeat it when the computer is quiet for better figures.",
            soft_wrap=True,
        )
    to.print(f"Kept in {path}; `edgectl plan` uses it from now on.", markup=False, soft_wrap=True)
