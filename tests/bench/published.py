"""Predicted against published decode speeds of boards, without a measurement: device profiles alone.

    python -m tests.bench.published [--json]

One row for each run that somebody published on the board itself (no predictions, no rows taken over from a
sister board) of a model whose file size is known. Three errors a row:

profile   the profile's figures, which were fitted with this row among others
left out  both figures fitted again without this row, where the board has three rows or more
rule      one constant a family of processors, tokens/s × GB, the best that there is for these rows
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from statistics import median

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from edgectl.planning.catalog import load_catalog
from edgectl.planning.least_squares import fit_nonnegative
from edgectl.planning.speed import device_speed, estimate_speed
from edgectl.probe import load_profiles, planned_device

TARGET = 0.20
# Q4_K_M files of models that the catalogue does not have: bytes, parameters. Publishers' file lists;
# Ollama's default is the same quantization.
OTHERS = {
    "llama-3.1-8b": (4.92e9, 8.03e9),
    "llama3.1-8b": (4.92e9, 8.03e9),
    "llama3.2-3b": (2.02e9, 3.21e9),
    "deepseek-r1-1.5b": (1.12e9, 1.78e9),
    "deepseek-r1-14b": (8.99e9, 14.8e9),
    "qwen2.5-1.5b": (0.99e9, 1.54e9),
    "qwen2.5-coder-1.5b": (0.99e9, 1.54e9),
    "qwen3-4b": (2.50e9, 4.02e9),
    "qwen3-8b": (5.03e9, 8.19e9),
}
SAME_NETWORK = {"qwen3.6-27b": "qwen3.5-27b"}


class Row(Struct, frozen=True, kw_only=True):
    """Tokens a second; errors relative to what was published."""

    board: str
    family: str
    model: str
    quant: str
    published_tps: float
    predicted_tps: float
    file_bytes: float
    left_out_tps: float | None = None
    rule_tps: float = 0.0

    def error(self, tps: float) -> float:
        return tps / self.published_tps - 1


def rows() -> list[Row]:
    """Every usable run, once."""
    catalog = load_catalog()
    found: dict[tuple[str, str], Row] = {}
    for profile in load_profiles():
        board = profile.board
        speed = device_speed(planned_device(profile.id), profile)
        for run in profile.published:
            key = (run.source, run.model)
            sister = "not measured on this board" in profile.source
            if run.estimate or sister or run.engine != profile.engine or key in found:
                continue
            name = SAME_NETWORK.get(run.model, run.model)
            if any(entry.id == name for entry in catalog.models):
                entry = catalog.model(name)
                file = entry.file(run.quant)
                if file is None:
                    continue
                size, predicted = float(file.bytes), estimate_speed(entry, file, speed).decode_tps
            elif run.model in OTHERS and run.quant in {"Q4_K_M", "unspecified"}:
                size = OTHERS[run.model][0]
                predicted = 1 / (speed.overhead_s + size / speed.bandwidth_bytes_per_s)
            else:
                continue
            family = board.cpu.arch if profile.engine == "cpu" else profile.engine
            found[key] = Row(
                board=board.name, family=family, model=run.model, quant=run.quant, file_bytes=size,
                published_tps=run.decode_tps, predicted_tps=predicted,
            )  # fmt: skip
    return [compared(row, list(found.values())) for row in found.values()]


def compared(row: Row, everything: list[Row]) -> Row:
    """``row`` with what the other two ways say."""
    family = [one.published_tps * one.file_bytes for one in everything if one.family == row.family]
    constant = math.exp(sum(map(math.log, family)) / len(family))
    rest = [one for one in everything if one.board == row.board and one is not row]
    left_out = None
    if len(rest) >= 2:
        fixed_s, byte_s = fit_nonnegative(
            [(1.0, one.file_bytes) for one in rest], [1 / one.published_tps for one in rest]
        )
        left_out = 1 / (fixed_s + byte_s * row.file_bytes)
    return replace(row, rule_tps=constant / row.file_bytes, left_out_tps=left_out)


def summary(errors: list[float]) -> str:
    sizes = [abs(error) for error in errors]
    return f"median {median(sizes):.0%}, largest {max(sizes):.0%} of {len(sizes)}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = rows()
    profile_errors = [row.error(row.predicted_tps) for row in found]
    met = median(map(abs, profile_errors)) <= TARGET
    if options.json:
        print(json.dumps(to_builtins(found), indent=2))
        return 0 if met else 1
    print("| board | model | published tok/s | profile | error | left out | rule |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in found:
        left = "" if row.left_out_tps is None else f"{row.error(row.left_out_tps):+.0%}"
        print(f"| {row.board} | {row.model} {row.quant.replace('unspecified', '')} | {row.published_tps:.2f} "
              f"| {row.predicted_tps:.2f} | {row.error(row.predicted_tps):+.0%} | {left} "
              f"| {row.error(row.rule_tps):+.0%} |")  # fmt: skip
    print(f"\nprofile: {summary(profile_errors)}")
    print(f"left out: {summary([row.error(row.left_out_tps) for row in found if row.left_out_tps])}")
    print(f"rule: {summary([row.error(row.rule_tps) for row in found])}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
