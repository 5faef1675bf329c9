"""Keeps the engine's options right for this box: tried at first, and again as its other work changes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from msgspec import structs

from edged.engine.process import SPIN_COUNT, WorkerLost, wait_policy_is_given
from edged.engine.selftest import Choices, Sacrifice, choose, remember, remembered, verdict_key
from edged.engine.tuning import SPIN_COUNTS, RetunePolicy, thread_choices
from edged.host.cpu_load import LoadMeter
from edged.host.cpus import compute_threads, fast_cpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edged.api.config import Config
    from edged.engine.selftest import Verdict
    from edged.ipc.messages import Load

log = logging.getLogger("edged.engine")

BACKGROUND_S = 1.0  # of watching what else runs, before the first trial


class Tuner:
    """One for the life of the daemon; the verdict outlives it in ``path``."""

    def __init__(
        self,
        config: Config,
        path: Path,
        *,
        place: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._path = path
        self._place = place
        self._clock = clock
        cpus = fast_cpus()
        most = compute_threads(cpus)
        self.threads = config.model.threads or most
        # Empty: all that are allowed, because they are alike or because so many threads are asked for.
        self.cpus = cpus if len(cpus) < len(os.sched_getaffinity(0)) and self.threads <= most else ()
        self._meter = LoadMeter(cpus)
        self._policy: RetunePolicy | None = None
        self._cpu_count = len(cpus)
        self._anew = ""  # why the next load is preceded by another trial
        self.verdict: Verdict | None = None

    @property
    def spin_count(self) -> int:
        return self.verdict.settings.spin_count if self.verdict else SPIN_COUNT

    @property
    def settings_text(self) -> str:
        """What is in force, for people."""
        if self.verdict is None:
            return f"{self.threads} threads"
        found = self.verdict.settings
        return f"{found.threads} threads ({found.batch_threads} for batches), spin {found.spin_count}"

    async def settle(self, order: Load, engine_version: str) -> Load:
        """``order`` with the options that are best here; tries them when nobody has, or when asked anew.

        Raises WorkerLost when the model loads with no options.
        """
        choices = self._choices()
        if choices is None:
            return order
        budget_bytes = self._config.memory.budget_mib << 20
        key = verdict_key(order, engine_version, budget_bytes, choices)
        if self.verdict is None or self.verdict.key != key:
            self.verdict = remembered(self._path, key) or await self._try(order, key, choices, budget_bytes)
            self._watch_from(self.verdict.background)
        elif self._anew:
            await self._try_anew(order, choices, budget_bytes)
        found = self.verdict.settings
        options = structs.replace(
            order.options,
            repack=self.verdict.repack,
            threads=found.threads,
            batch_threads=found.batch_threads,
        )
        return structs.replace(order, options=options)

    def answered(self, decode_tps: float) -> None:
        """Note the speed of an answer that had the engine to itself."""
        if self._policy is not None:
            self._policy.answered(decode_tps)

    def watch(self, worker_pid: int) -> str:
        """Look at what else runs; why the worker should be replaced by one that is tuned anew, or nothing.

        Called every few seconds while a worker serves.
        """
        if self._policy is None:
            return ""
        now_s = self._clock()
        load = self._meter.read(now_s, (worker_pid, os.getpid()))
        why = ""
        if load is not None:
            why = self._policy.step(now_s, background=load.background, idle=load.idle)
        self._anew = why or self._anew
        return why

    def _choices(self) -> Choices | None:
        model = self._config.model
        by_trying = not model.threads
        if not self._config.engine.selftest or (model.repack != "auto" and not by_trying):
            return None
        return Choices(
            repack=(True, False) if model.repack == "auto" else (model.repack == "on",),
            threads=thread_choices(self.threads) if by_trying else (self.threads,),
            spin_counts=SPIN_COUNTS if by_trying and not wait_policy_is_given() else (SPIN_COUNT,),
        )

    def _watch_from(self, background: float) -> None:
        if not self._config.model.threads and self.threads > 1:
            self._policy = RetunePolicy(cpus=self._cpu_count, background=background)

    async def _try(self, order: Load, key: str, choices: Choices, budget_bytes: int) -> Verdict:
        background = 0.0
        if len(choices.threads) > 1:
            self._meter.read(self._clock(), (os.getpid(),))
            await asyncio.sleep(BACKGROUND_S)
            load = self._meter.read(self._clock(), (os.getpid(),))
            background = load.background if load else 0.0
        verdict = await choose(
            order, key, choices, self._sacrifice(), budget_bytes=budget_bytes, background=background
        )
        remember(self._path, verdict)
        return verdict

    async def _try_anew(self, order: Load, choices: Choices, budget_bytes: int) -> None:
        """Try threads and wait policies again; what was in force stays when no trial survives."""
        before, policy = self.verdict, self._policy
        why, self._anew = self._anew, ""
        if before is None or policy is None:
            return
        choices = structs.replace(choices, repack=(before.repack,))
        text = self.settings_text
        background = policy.background
        policy.tuned(self._clock())
        try:
            found = await choose(
                order,
                before.key,
                choices,
                self._sacrifice(),
                budget_bytes=budget_bytes,
                background=background,
            )
        except WorkerLost as error:
            log.warning("tuning anew found nothing that works, %s stay: %s", text, error)
            return
        self.verdict = found
        remember(self._path, found)
        log.info("tuned anew, %s; from %s to %s", why, text, self.settings_text)

    def _sacrifice(self) -> Sacrifice:
        patience = self._config.engine
        return Sacrifice(
            place=self._place,
            cpus=self.cpus,
            timeout_s=patience.load_timeout_s,
            hang_timeout_s=patience.hang_timeout_s,
        )
