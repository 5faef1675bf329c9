"""`edgectl calibrate`: measure how fast models run on this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgectl.output.terminal import console, emit_json, json_option

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.planning.calibration import Calibration

EPILOG = """\b
Examples:
  edgectl calibrate                once, when nothing else is running
  edgectl calibrate --seconds 30   with fewer kinds of weights
  edgectl calibrate --json         for scripts
  edgectl plan                     uses the figures from then on

\b
How it is done:
  Model files of full width with few layers and no weights are written
  (some megabytes on disk), loaded in a real worker and timed: single
  steps, four requests at once, prompts, and long contexts. The number of
  threads is found by trying. From these the time of every model of the
  catalogue follows, part by part. The files are removed at the end.

\b
The figures are kept in calibration.json in the state folder and hold
until the CPU or the engine changes. `sudo edgectl install` uses those of
the user who called it, where root has none. Measuring stops when memory
runs short. It needs the engine: pip install "edged[daemon]"."""


@click.command(epilog=EPILOG)
@click.option("--seconds", type=click.FloatRange(min=5, max=600), default=60.0, show_default=True,
              help="About how long to measure.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="Measure with so many threads. [default: found by trying]")  # fmt: skip
@json_option
def command(*, seconds: float, threads: int | None, as_json: bool) -> None:
    """Measure in a minute how fast models run on this computer, for better plans.

    Nothing is downloaded. Best done while the computer does what it usually does beside a model.
    """
    from edgectl.planning.calibration import calibration_path
    from edgectl.probe import probe_device

    calibration = measure_here(probe_device(), seconds=seconds, threads=threads)
    if as_json:
        emit_json(calibration)
    else:
        from edgectl.output.calibration import show_calibration

        show_calibration(console(), calibration, calibration_path())


def measure_here(device: Device, *, seconds: float, threads: int | None = None) -> Calibration:
    """Calibrate with a progress bar and keep the result. Raises DeviceUnsupported without the engine."""
    import contextlib
    import os
    import time
    from datetime import UTC, datetime

    from edgectl.output.calibration import calibration_progress
    from edgectl.planning.calibrate import calibrate
    from edgectl.planning.calibration import calibration_path, engine_version, save_calibration
    from edgectl.planning.dryrun import require_engine

    require_engine()
    path = calibration_path()
    replicas = path.parent / "replicas"
    try:
        with calibration_progress(seconds) as progress:
            calibration = calibrate(
                device,
                engine_version() or "unknown",
                replicas,
                clock=time.monotonic,
                measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
                load_average=os.getloadavg()[0],
                seconds=seconds,
                threads=threads,
                on_progress=progress,
            )
    finally:
        with contextlib.suppress(OSError):  # another calibration is at work there
            replicas.rmdir()
    save_calibration(calibration, path)
    return calibration
