"""Finds the fastest engine options that do not kill the worker, by trying, and remembers them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from statistics import median
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from edged.engine.process import Worker, WorkerLost
from edged.engine.tuning import SPIN_COUNTS, Settings, Speed, choose_settings, choose_wait
from edged.host.files import UNREADABLE, read_text, write_atomic
from edged.host.procfs import ROOT
from edged.ipc.frames import FrameError
from edged.ipc.messages import Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edged.ipc.messages import EngineOptions, Load

log = logging.getLogger("edged.selftest")

WORTHWHILE = 1.05  # repacked weights cost anonymous memory; less than 5% more speed is not worth it
# A trial measures each thread count in turn, again and again for this long, so that what else happens on the
# box meets all of them; once at least, however slow the model is.
TRIAL_S = 3.0
MOST_ROUNDS = 5


class Trial(Struct, frozen=True, kw_only=True):
    """One sacrificial load: how it was started, how it ended, how fast each number of threads was."""

    repack: bool
    spin_count: int = SPIN_COUNTS[0]
    survived: bool
    outcome: str
    speeds: dict[int, Speed] = {}
    anon_bytes: int = 0

    @property
    def decode_tps(self) -> float:
        """With the best number of threads."""
        return max((speed.decode_tps for speed in self.speeds.values()), default=0.0)

    @property
    def prefill_tps(self) -> float:
        """With the best number of threads."""
        return max((speed.prefill_tps for speed in self.speeds.values()), default=0.0)


class Verdict(Struct, frozen=True, kw_only=True):
    """What was tried under ``key`` (engine build, CPU, model file), and what came of it.

    ``background``: CPUs that other programs kept busy then.
    """

    key: str
    repack: bool
    settings: Settings
    background: float = 0.0
    trials: tuple[Trial, ...]


class Choices(Struct, frozen=True, kw_only=True):
    """What is tried: repacking, numbers of threads in one worker, wait policies; the preferred one first."""

    repack: tuple[bool, ...]
    threads: tuple[int, ...]
    spin_counts: tuple[int, ...] = SPIN_COUNTS[:1]


class Sacrifice:
    """Starts workers for trials, with patience in seconds."""

    def __init__(
        self,
        *,
        place: Callable[[int], None],
        cpus: Sequence[int] = (),
        timeout_s: float,
        hang_timeout_s: float,
    ) -> None:
        self._place = place
        self._cpus = cpus
        self._timeout_s = timeout_s
        self._hang_timeout_s = hang_timeout_s

    async def attempt(self, order: Load, threads: Sequence[int], spin_count: int) -> Trial:
        """Load and measure in a worker of its own, which may die of it."""
        repack = order.options.repack
        try:
            worker = await Worker.spawn(self._place, cpus=self._cpus, spin_count=spin_count)
        except OSError as error:
            return Trial(repack=repack, spin_count=spin_count, survived=False, outcome=str(error))
        speeds: dict[int, Speed] = {}
        survived, anon_bytes, outcome = False, 0, ""
        try:
            ready = await worker.load(
                order, load_timeout_s=self._timeout_s, hang_timeout_s=self._hang_timeout_s
            )
            speeds = await self._measure(worker, order.options, threads)
            survived, anon_bytes, outcome = True, ready.anon_bytes, "ok"
        except WorkerLost as error:
            outcome = str(error)
        except (OSError, EOFError, FrameError):
            outcome = f"the engine process ended: {await worker.cause()}"
        finally:
            await worker.kill()
        trial = Trial(
            repack=repack,
            spin_count=spin_count,
            survived=survived,
            outcome=outcome,
            speeds=speeds,
            anon_bytes=anon_bytes,
        )
        _log(trial)
        return trial

    async def _measure(
        self, worker: Worker, options: EngineOptions, threads: Sequence[int]
    ) -> dict[int, Speed]:
        clock = asyncio.get_running_loop().time
        begun_s, rounds = clock(), 0
        seen: dict[int, list[Speed]] = {count: [] for count in threads}
        while not rounds or (clock() - begun_s < TRIAL_S and rounds < MOST_ROUNDS):
            rounds += 1
            for count in threads:
                workload = structs.replace(measure_order(options), threads=count)
                measured = await worker.measure(
                    workload, limit_s=self._timeout_s, hang_timeout_s=self._hang_timeout_s
                )
                seen[count].append(Speed(measured.decode_tps, measured.prefill_tps))
        return {
            count: Speed(median(one.decode_tps for one in some), median(one.prefill_tps for one in some))
            for count, some in seen.items()
        }


def verdict_key(order: Load, engine_version: str, budget_bytes: int, choices: Choices) -> str:
    """Changes when the engine, its options, the CPU's features, the model file, the budget or choices do."""
    cpuinfo = (read_text(ROOT / "proc/cpuinfo", limit=1 << 20) or "").splitlines()
    facts = sorted(
        {line for line in cpuinfo if line.startswith(("model name", "flags", "Features", "CPU part"))}
    )
    parts = [engine_version, order.backend, order.path, file_version(order.path), *facts]
    parts += [repr(structs.replace(order.options, repack=True)), str(budget_bytes), repr(choices)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def file_version(path: str) -> str:
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
    except UNREADABLE:
        return None
    return verdict if verdict.key == key else None


def remember(path: Path, verdict: Verdict) -> None:
    """Store ``verdict``; a disk that does not take it costs the next start another trial."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(verdict))
    except OSError as error:
        log.warning("the self-test's verdict cannot be kept, the next start tries again: %s", error)


async def choose(
    order: Load, key: str, choices: Choices, sacrifice: Sacrifice, *, budget_bytes: int, background: float
) -> Verdict:
    """Try ``choices`` in workers that may die, and say which is best.

    What takes more anonymous memory than ``budget_bytes`` (0: no budget) is out, however fast. Raises
    WorkerLost, with the outcome of the safest setting, when none works.
    """

    async def attempt(*, repack: bool, spin_count: int) -> Trial:
        options = structs.replace(order.options, repack=repack)
        return await sacrifice.attempt(structs.replace(order, options=options), choices.threads, spin_count)

    usual = choices.spin_counts[0]
    trials = [await attempt(repack=repack, spin_count=usual) for repack in choices.repack]
    survivors = [trial for trial in trials if trial.survived]
    if not survivors:
        raise WorkerLost(trials[-1].outcome)
    affordable = [trial for trial in survivors if not 0 < budget_bytes < trial.anon_bytes] or survivors[-1:]
    repack = prefer_repack(affordable)
    first = next(trial for trial in affordable if trial.repack == repack)
    tried = [(choose_settings(usual, first.speeds), first.speeds)]
    if tried[0][0].threads > 1:  # one thread waits for nobody
        for spin_count in choices.spin_counts[1:]:
            trial = await attempt(repack=repack, spin_count=spin_count)
            trials.append(trial)
            if trial.survived:
                tried.append((choose_settings(spin_count, trial.speeds), trial.speeds))
    return Verdict(
        key=key, repack=repack, settings=choose_wait(tried), background=background, trials=tuple(trials)
    )


def engine_version(backend: str) -> str:
    """The version of the engine's package, found without importing native code."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - costs memory, needed once

    if backend != "llama":
        return backend
    try:
        return f"llama-cpp-python {version('llama-cpp-python')}"
    except PackageNotFoundError:
        return "llama-cpp-python is not installed"


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


def _log(trial: Trial) -> None:
    speeds = ", ".join(
        f"{count} threads decode {speed.decode_tps:.1f} prefill {speed.prefill_tps:.1f} t/s"
        for count, speed in trial.speeds.items()
    )
    log.info("repack=%s spin=%d: %s %s", trial.repack, trial.spin_count, trial.outcome, speeds)
