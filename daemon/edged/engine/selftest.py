"""Finds the fastest engine options that do not kill the worker, by trying, and remembers them."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from edged.engine.process import Worker, WorkerLost
from edged.host.files import read_text, write_atomic
from edged.host.procfs import ROOT
from edged.ipc.frames import FrameError
from edged.ipc.messages import Measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edged.ipc.messages import EngineOptions, Load

log = logging.getLogger("edged.selftest")

WORTHWHILE = 1.05  # repacked weights cost anonymous memory; less than 5% more speed is not worth it


class Trial(Struct, frozen=True, kw_only=True):
    """One sacrificial load with ``repack`` on or off: how it ended, and how fast it was (tokens/s)."""

    repack: bool
    survived: bool
    outcome: str
    decode_tps: float = 0.0
    prefill_tps: float = 0.0
    anon_bytes: int = 0


class Verdict(Struct, frozen=True, kw_only=True):
    """What was tried under ``key`` (engine build, CPU, model file) and what came of it."""

    key: str
    repack: bool
    trials: tuple[Trial, ...]


def verdict_key(order: Load, engine_version: str, budget_bytes: int = 0) -> str:
    """Changes when the engine build or options, the CPU's features, the model file or the budget do."""
    cpuinfo = (read_text(ROOT / "proc/cpuinfo", limit=1 << 20) or "").splitlines()
    facts = sorted(
        {line for line in cpuinfo if line.startswith(("model name", "flags", "Features", "CPU part"))}
    )
    parts = [engine_version, order.backend, order.path, _file_version(order.path), *facts]
    parts += [repr(structs.replace(order.options, repack=True)), str(budget_bytes)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _file_version(path: str) -> str:
    """Changes when a file is replaced under its name."""
    try:
        found = os.stat(path)  # noqa: PTH116 - called with a plain string from the configuration
    except OSError:
        return "absent"
    return f"{found.st_size} {found.st_mtime_ns}"


def remembered(path: Path, key: str) -> Verdict | None:
    """The stored verdict for ``key``, if there is a readable one."""
    try:
        verdict = msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
        return None
    return verdict if verdict.key == key else None


async def choose(
    order: Load,
    key: str,
    path: Path,
    *,
    budget_bytes: int,
    timeout_s: float,
    hang_timeout_s: float,
    place: Callable[[int], None],
) -> Verdict:
    """Try both settings in workers that may die; store and return the verdict.

    A setting whose anonymous memory exceeds ``budget_bytes`` (0: no budget) is out,
    however fast. Raises WorkerLost, with the outcome of the safer setting, when neither works.
    """
    trials = []
    for repack in (True, False):
        options = structs.replace(order.options, repack=repack)
        trial_order = structs.replace(order, options=options)
        trials.append(
            await _try(trial_order, timeout_s=timeout_s, hang_timeout_s=hang_timeout_s, place=place)
        )
    survivors = [trial for trial in trials if trial.survived]
    survivors = [trial for trial in survivors if not 0 < budget_bytes < trial.anon_bytes] or survivors[-1:]
    for trial in trials:
        log.info(
            "selftest repack=%s %s decode=%.1f t/s prefill=%.1f t/s",
            trial.repack, trial.outcome, trial.decode_tps, trial.prefill_tps,
        )  # fmt: skip
    if not survivors:
        raise WorkerLost(trials[-1].outcome)
    verdict = Verdict(key=key, repack=prefer_repack(survivors), trials=tuple(trials))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(verdict))
    except OSError as error:
        log.warning("the self-test's verdict cannot be kept, the next start tries again: %s", error)
    return verdict


def prefer_repack(survivors: list[Trial]) -> bool:
    """Repacking must earn its memory: by speed in decode or prefill."""
    by_setting = {trial.repack: trial for trial in survivors}
    if True not in by_setting or False not in by_setting:
        return True in by_setting
    with_it, without = by_setting[True], by_setting[False]
    return (
        with_it.decode_tps * with_it.prefill_tps > without.decode_tps * without.prefill_tps * WORTHWHILE
        and with_it.decode_tps > without.decode_tps / WORTHWHILE
    )


def measure_order(options: EngineOptions) -> Measure:
    """A prompt of two full steps at least and a short answer: enough to tell two settings apart."""
    prompt = min(max(64, 2 * options.ubatch), options.context // 2)
    return Measure(depth=prompt, prefill_tokens=prompt, decode_steps=16)


async def _try(
    order: Load, *, timeout_s: float, hang_timeout_s: float, place: Callable[[int], None]
) -> Trial:
    repack = order.options.repack
    worker = await Worker.spawn(place)
    try:
        ready = await worker.load(order, load_timeout_s=timeout_s, hang_timeout_s=hang_timeout_s)
        workload = measure_order(order.options)
        measured = await worker.measure(workload, limit_s=timeout_s, hang_timeout_s=hang_timeout_s)
        return Trial(
            repack=repack,
            survived=True,
            outcome="ok",
            decode_tps=measured.decode_tps,
            prefill_tps=measured.prefill_tps,
            anon_bytes=ready.anon_bytes,
        )
    except WorkerLost as error:
        return Trial(repack=repack, survived=False, outcome=str(error))
    except (OSError, EOFError, FrameError):
        return Trial(
            repack=repack, survived=False, outcome=f"the engine process ended: {await worker.cause()}"
        )
    finally:
        await worker.kill()
