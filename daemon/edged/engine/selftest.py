"""Finds the fastest engine options that do not kill the worker, by trying, and remembers them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from edged.engine.process import Worker
from edged.host.files import read_text, write_atomic
from edged.host.procfs import ROOT
from edged.ipc.frames import FrameError
from edged.ipc.messages import LoadFailed, Ready

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


def verdict_key(order: Load, engine_version: str) -> str:
    """Changes when the engine build, the CPU's features or the model file do."""
    cpuinfo = (read_text(ROOT / "proc/cpuinfo", limit=1 << 20) or "").splitlines()
    facts = sorted(
        {line for line in cpuinfo if line.startswith(("model name", "flags", "Features", "CPU part"))}
    )
    parts = [engine_version, order.backend, order.path, *facts]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def remembered(path: Path, key: str) -> Verdict | None:
    """The stored verdict for ``key``, if there is a readable one."""
    try:
        verdict = msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
        return None
    return verdict if verdict.key == key else None


async def choose(
    order: Load, key: str, path: Path, *, budget_bytes: int, timeout_s: float, place: Callable[[int], None]
) -> Verdict | None:
    """Try both settings in workers that may die; store and return the verdict.

    A setting whose anonymous memory exceeds ``budget_bytes`` (0: no budget) is out,
    however fast. None when nothing worked, which is then for the real load to explain.
    """
    trials = [await _try(order, repack=repack, timeout_s=timeout_s, place=place) for repack in (True, False)]
    survivors = [trial for trial in trials if trial.survived]
    survivors = [trial for trial in survivors if not 0 < budget_bytes < trial.anon_bytes] or survivors[-1:]
    for trial in trials:
        log.info(
            "selftest repack=%s %s decode=%.1f t/s prefill=%.1f t/s",
            trial.repack, trial.outcome, trial.decode_tps, trial.prefill_tps,
        )  # fmt: skip
    if not survivors:
        return None
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


async def _try(order: Load, *, repack: bool, timeout_s: float, place: Callable[[int], None]) -> Trial:
    options: EngineOptions = structs.replace(order.options, repack=repack)
    worker = await Worker.spawn(place)
    try:
        async with asyncio.timeout(timeout_s):
            await worker.send(structs.replace(order, options=options, measure=True))
            while True:
                message = await worker.receive()
                if isinstance(message, Ready):
                    return Trial(
                        repack=repack,
                        survived=True,
                        outcome="ok",
                        decode_tps=message.decode_tps or 0.0,
                        prefill_tps=message.prefill_tps or 0.0,
                        anon_bytes=message.anon_bytes,
                    )
                if isinstance(message, LoadFailed):
                    return Trial(repack=repack, survived=False, outcome=message.message)
    except TimeoutError:
        return Trial(repack=repack, survived=False, outcome=f"no answer within {timeout_s:.0f} s")
    except (OSError, EOFError, FrameError):
        return Trial(repack=repack, survived=False, outcome=f"died: {await worker.end()}")
    finally:
        await worker.kill()
