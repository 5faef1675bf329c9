"""Predicted against measured speed of whole models, after calibrating on this machine.

    python -m tests.bench.speed [--threads N] [--gemma FILE] [--only NAME] [--json]

For weightless replicas of Qwen3.5 0.8B, 2B and 4B (Q4_K_M, all layers) and real files (SmolLM2-135M, and
gemma-3-270m where its file is named): decode of one and of four sequences, prefill, near depth 0 and at 4k
tokens, or as deep as --fill seconds reach. A calibration runs before and after every model, and the
prediction is the mean of the two, so that a machine that changes its pace is seen. On a machine that others
use, run it as `chrt -f 1 python -m tests.bench.speed --threads 1`: real time priority, one core left to them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct, to_builtins

from edgectl.models.gguf import read_header
from edgectl.models.replica_plan import plan_replica
from edgectl.planning.calibrate import calibrate
from edgectl.planning.catalog import load_catalog
from edgectl.planning.dryrun import DryRun, EngineSettings, dry_run, dry_run_replica
from edgectl.planning.work import Work, work_of_file, work_of_header
from edgectl.probe import probe_device
from edged.api.measuring import Workload

if TYPE_CHECKING:
    from edgectl.planning.calibration import Calibration

UBATCH = 128
DEEP = 4096
REPLICAS = ("qwen3.5-0.8b", "qwen3.5-2b", "qwen3.5-4b")
TARGETS = {"decode": 0.15, "prefill": 0.20}


class Target(Struct, frozen=True):
    """One model: what it does a token, and how to try it."""

    name: str
    work: Work
    context: int
    run: Callable[[EngineSettings, tuple[Workload, ...]], DryRun]


class Row(Struct, frozen=True):
    """Tokens a second of all sequences together."""

    model: str
    what: str
    batch: int
    depth: int
    predicted_tps: float
    measured_tps: float

    @property
    def error(self) -> float:
        return self.predicted_tps / self.measured_tps - 1


def targets(folder: Path, files: list[Path], only: str) -> list[Target]:
    found = []
    for name in REPLICAS:
        entry, file = load_catalog().find(f"{name}:Q4_K_M")
        plan = plan_replica(entry.arch, entry.geometry, file.quant, context_tokens=2 * DEEP)

        def run(settings, workloads, plan=plan):
            return dry_run_replica(plan, folder, settings, workloads)

        found.append(
            Target(
                f"{entry.name} Q4_K_M",
                work_of_file(entry, file),
                2 * DEEP,
                run,
            )
        )
    for path in files:
        header = read_header(path)
        name = f"{header.name or header.architecture} {header.quantization} (real)"

        def run_file(settings, workloads, path=path):
            return dry_run(path, settings, workloads)

        found.append(Target(name, work_of_header(header), header.context_length or DEEP, run_file))
    return [one for one in found if only.lower() in one.name.lower()]


def workloads(target: Target, calibration: Calibration, fill_s: float) -> tuple[Workload, ...]:
    """Near depth 0 first; then the depth that a sequence can be filled to in the time."""
    depth = min(DEEP, target.context - 64)
    while depth > UBATCH and calibration.prompt_s(target.work, depth) > fill_s:
        depth -= UBATCH
    return (
        *[Workload(decode_steps=6)] * 3,
        *[Workload(batch=4, decode_steps=4)] * 3,
        *[Workload(depth=UBATCH, prefill_tokens=UBATCH)] * 3,
        Workload(depth=depth, prefill_tokens=UBATCH, decode_steps=8),
        Workload(batch=4, depth=depth, decode_steps=6),
    )


def rows(target: Target, done: DryRun, calibrations: list[Calibration]) -> list[Row]:
    """Steps of the same size and depth count by their median, as in a calibration."""
    steps: dict[tuple[str, int, int], list[float]] = {}
    for result in done.results:
        order, measured = result.workload, result.measured
        if order.decode_steps:
            steps.setdefault(("decode", order.batch, order.depth), []).append(
                order.batch / measured.decode_tps
            )
        if order.prefill_tokens:
            steps.setdefault(("prefill", 1, order.depth), []).append(1 / measured.prefill_tps)
    found = []
    for (what, batch, depth), seconds in steps.items():
        if what == "decode":
            predicted = [
                one.decode_step_s(target.work, batch=batch, depth_tokens=depth) for one in calibrations
            ]
        else:
            middle = depth - UBATCH / 2
            predicted = [one.prefill_token_s(target.work, depth_tokens=middle) for one in calibrations]
        step_s = sum(predicted) / len(predicted)
        found.append(Row(target.name, what, batch, depth, batch / step_s, batch / median(seconds)))
    return found


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Row], list[Calibration]]:
    device = probe_device()

    def calibrated() -> Calibration:
        return calibrate(
            device, "bench", folder, clock=time.monotonic, measured_at="", load_average=os.getloadavg()[0],
            seconds=options.seconds, threads=options.threads,
        )  # fmt: skip

    found: list[Row] = []
    calibrations = [calibrated()]
    options.threads = calibrations[0].threads
    for target in targets(folder, options.files, options.only):
        settings = EngineSettings(
            context=DEEP + 64,
            slots=4,
            ubatch=UBATCH,
            threads=options.threads,
            repack=calibrations[0].repack,
        )
        print(f"{target.name}: load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        done = target.run(settings, workloads(target, calibrations[-1], options.fill))
        calibrations.append(calibrated())
        found += rows(target, done, calibrations[-2:])
    return found, calibrations


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="instead of trying")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each calibration")
    parser.add_argument("--fill", type=float, default=30.0, help="seconds to fill a context")
    parser.add_argument("--gemma", type=Path, help="a gemma-3-270m file")
    parser.add_argument("--no-smollm2", action="store_true", help="leave the real demo model out")
    parser.add_argument("--only", default="", help="only models with this in their name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.files = [options.gemma] if options.gemma else []
    if not options.no_smollm2:
        from tests.kit.model import smollm2

        options.files.insert(0, Path(smollm2()))
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="edged-bench-", dir="/var/tmp") as folder:
        found, calibrations = measure(options, Path(folder))
    errors = {what: [abs(row.error) for row in found if row.what == what] for what in TARGETS}
    missed = [row for row in found if abs(row.error) > TARGETS[row.what]]
    if options.json:
        print(json.dumps([{**to_builtins(row), "error": row.error} for row in found], indent=2))
        return 1 if missed else 0
    print(f"threads {options.threads}; load before {before:.1f}, after {os.getloadavg()[0]:.1f}; "
          f"spread of a step {median(one.spread for one in calibrations):.0%}; "
          f"{len(calibrations)} calibrations of "
          f"{median(one.took_s for one in calibrations):.0f} s")  # fmt: skip
    print("\n| model | what | sequences | depth | predicted tok/s | measured tok/s | error |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in found:
        print(f"| {row.model} | {row.what} | {row.batch} | {row.depth} | {row.predicted_tps:.1f} "
              f"| {row.measured_tps:.1f} | {row.error:+.0%} |")  # fmt: skip
    for what, target in TARGETS.items():
        within = sum(error <= target for error in errors[what])
        print(f"\n{what}: {within} of {len(errors[what])} within {target:.0%}, "
              f"median error {median(errors[what]):.0%}, largest {max(errors[what]):.0%}")  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
