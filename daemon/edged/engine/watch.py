"""Notices that a worker hangs: no heartbeats, or heartbeats without progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edged.engine.process import WorkerLost

if TYPE_CHECKING:
    from edged.ipc.messages import Heartbeat

WATCH_S = 0.25


class HangWatch:
    """Raises WorkerLost when heartbeats stop, or a step never ends."""

    def __init__(self, hang_timeout_s: float, step_timeout_s: float) -> None:
        self._hang_s = hang_timeout_s
        self._step_s = step_timeout_s
        self._progress = -1
        self._beat_at = self._step_at = asyncio.get_running_loop().time()

    def heard(self, beat: Heartbeat) -> None:
        now = asyncio.get_running_loop().time()
        self._beat_at = now
        if not beat.busy or beat.progress != self._progress:
            self._step_at = now
        self._progress = beat.progress

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            if now - last > WATCH_S + 1.0:  # it was us who stood still; the worker's beats are in the socket
                self._beat_at = self._step_at = now
            last = now
            if now - self._beat_at > self._hang_s:
                raise WorkerLost(f"no heartbeat for {self._hang_s:.0f} s: the engine process hangs")
            if now - self._step_at > self._step_s:
                raise WorkerLost(f"one compute step took more than {self._step_s:.0f} s: the engine hangs")
