"""Keeps one worker alive and serving: spawns, loads, routes, notices death and hangs, backs off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from edged.api.errors import ModelUnusable
from edged.api.status import EngineState
from edged.engine import selftest
from edged.engine.backoff import Backoff
from edged.engine.modelfile import check_model
from edged.engine.process import Worker, WorkerLost
from edged.engine.states import EngineStates
from edged.host.cpus import compute_threads
from edged.ipc.frames import FrameError
from edged.ipc.messages import (
    Cancel,
    Done,
    EngineOptions,
    Heartbeat,
    Load,
    Ready,
    Rejected,
    Start,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.api.config import Config
    from edged.ipc.messages import FromWorker, ToWorker

log = logging.getLogger("edged.engine")

WATCH_S = 0.25
RECYCLE_GRACE_S = 10.0  # what is running may finish; a Pi makes some 50 tokens in that time


class Sink(Protocol):
    """Where the words about one request go; after Done, Rejected or ``lost`` there are no more."""

    def message(self, message: Token | Done | Rejected) -> None: ...

    def lost(self, why: str) -> None: ...


class EngineSupervisor:
    """Runs for the life of the daemon; ``on_change`` is called whenever slots or state change."""

    def __init__(
        self,
        config: Config,
        *,
        state_dir: Path,
        place: Callable[[int], None],
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._verdict_path = state_dir / "selftest.json"
        self._digest_path = state_dir / "model.json"
        self._place = place
        self._on_change = on_change
        self._states = EngineStates(lambda _state, _why: on_change())
        self._backoff = Backoff()
        self._sinks: dict[int, Sink] = {}
        self._outbox: asyncio.Queue[ToWorker] = asyncio.Queue()
        self._next_key = 0
        self._recycle = asyncio.Event()
        self._recycle_why = ""
        self._idle = asyncio.Event()  # set when the last request in flight has ended
        self._verdict: selftest.Verdict | None = None
        self.worker_pid: int | None = None
        self.loaded: Ready | None = None
        self.restarts = 0
        self.last_error = ""

    # --- what the service uses ------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        return self._states.now

    @property
    def failing(self) -> bool:
        """The last attempt failed (``last_error`` says why) and no worker has become ready since."""
        return bool(self.last_error) and self.state not in {EngineState.READY, EngineState.RECYCLING}

    @property
    def broken(self) -> bool:
        """It failed time after time; attempts go on."""
        return self._backoff.broken

    @property
    def free_slots(self) -> int:
        """Requests that ``start`` may take now."""
        return self._config.model.slots - len(self._sinks) if self.state is EngineState.READY else 0

    @property
    def running(self) -> int:
        return len(self._sinks)

    def start(self, order: Start, sink: Sink) -> int:
        """Give ``order`` to the worker (only while ``free_slots`` > 0); the key for ``cancel``."""
        self._next_key += 1
        key = self._next_key
        self._sinks[key] = sink
        self._outbox.put_nowait(structs.replace(order, key=key))
        return key

    def cancel(self, key: int) -> None:
        """The worker answers with Rejected(code="cancelled"), unless it has already finished."""
        if key in self._sinks:
            self._outbox.put_nowait(Cancel(key=key))

    def recycle(self, why: str) -> None:
        """Replace the worker: no new requests, a grace for the running ones, then a fresh process."""
        if self.state is EngineState.READY:
            self._recycle_why = why
            self._recycle.set()

    # --- the life of the engine -----------------------------------------------------------

    async def run(self) -> None:
        """Keep a worker serving until cancelled; then the worker is gone and all requests are ended."""
        try:
            while True:
                ready_s, why, planned = await self._attempt()
                self.restarts += 1
                if planned:
                    continue
                self.last_error = why
                delay_s = self._backoff.failed(ready_s)
                state = EngineState.BROKEN if self._backoff.broken else EngineState.BACKOFF
                self._states.move(state, f"{why}; next attempt in {delay_s:.1f} s")
                await asyncio.sleep(delay_s)
        finally:
            if self.state is not EngineState.ABSENT:
                self._states.move(EngineState.ABSENT, "stopped")

    async def _attempt(self) -> tuple[float, str, bool]:
        """One worker from birth to death: seconds it was ready, why it ended, whether that was planned."""
        loop = asyncio.get_running_loop()
        self._states.move(EngineState.SPAWNING, "")
        self._outbox = asyncio.Queue()
        self._recycle.clear()
        ready_at = 0.0
        why, planned = "the daemon is stopping", False
        worker: Worker | None = None
        try:
            order = await self._order()
            worker = await Worker.spawn(self._place)
            self.worker_pid = worker.pid
            self._states.move(EngineState.LOADING, order.path)
            patience = self._config.engine
            self.loaded = await worker.load(
                order, load_timeout_s=patience.load_timeout_s, hang_timeout_s=patience.hang_timeout_s
            )
            ready_at = loop.time()
            self._states.move(
                EngineState.READY,
                f"load={self.loaded.load_ms:.0f} ms first_token={self.loaded.first_token_ms:.0f} ms",
            )
            await self._serve(worker)
            why, planned = self._recycle_why, True
        except (ModelUnusable, WorkerLost, OSError, EOFError, FrameError) as error:
            # First of all no slot is free any more, so that what arrives now waits for the next worker.
            self._states.move(EngineState.KILLING, str(error))
            why = await self._cause(error, worker)
        finally:  # whatever happens, also when we are cancelled while we find out what happened
            ready_s = loop.time() - ready_at if ready_at else 0.0
            await self._retire(worker, why)
        return ready_s, why, planned

    async def _cause(self, error: Exception, worker: Worker | None) -> str:
        """Why an attempt failed, for people; a link that was hung up says nothing by itself."""
        if worker is not None and isinstance(error, EOFError | ConnectionError):
            return f"the engine process ended: {await worker.cause()}"
        if isinstance(error, FrameError):
            return f"the engine process sent garbage: {error}"
        return str(error)

    async def _retire(self, worker: Worker | None, why: str) -> None:
        """End all requests in flight, then the worker."""
        if self.state is not EngineState.KILLING:
            self._states.move(EngineState.KILLING, why)
        self._abandon(why)
        self.worker_pid = None
        if worker is not None:
            await worker.kill()

    def _abandon(self, why: str) -> None:
        """End every request in flight, exactly once each."""
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.lost(why)

    async def _order(self) -> Load:
        """What the next worker is told to load, with the options that survive on this host.

        Raises ModelUnusable when the file is not the one that is configured.
        """
        model = self._config.model
        await check_model(Path(model.path), model.sha256, self._digest_path)
        options = EngineOptions(
            context=model.context,
            slots=model.slots,
            ubatch=model.ubatch,
            threads=model.threads or compute_threads(),
            kv_type=model.kv_type,
            mmap=model.mmap,
            repack=model.repack != "off",
        )
        order = Load(path=model.path, backend=model.backend, options=options)
        if model.repack != "auto" or not self._config.engine.selftest:
            return order
        if self._verdict is None:
            budget_bytes = self._config.memory.budget_mib << 20
            key = selftest.verdict_key(order, engine_version(model.backend), budget_bytes)
            self._verdict = selftest.remembered(self._verdict_path, key) or await selftest.choose(
                order,
                key,
                self._verdict_path,
                budget_bytes=budget_bytes,
                timeout_s=self._config.engine.load_timeout_s,
                hang_timeout_s=self._config.engine.hang_timeout_s,
                place=self._place,
            )
        return structs.replace(order, options=structs.replace(options, repack=self._verdict.repack))

    async def _serve(self, worker: Worker) -> None:
        """Route messages until the worker is lost (raises) or has been recycled (returns)."""
        watch = _Watch(self._config.engine.hang_timeout_s, self._config.engine.step_timeout_s)
        tasks = [
            asyncio.create_task(self._receive(worker, watch)),
            asyncio.create_task(self._send(worker)),
            asyncio.create_task(watch.run()),
            asyncio.create_task(self._drain_for_recycle()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, worker: Worker, watch: _Watch) -> None:
        while True:
            message = await worker.receive()
            if isinstance(message, Heartbeat):
                watch.heard(message)
            else:
                self._route(message)

    def _route(self, message: FromWorker) -> None:
        if isinstance(message, Token):
            if (sink := self._sinks.get(message.key)) is not None:
                sink.message(message)
        elif (
            isinstance(message, Done | Rejected) and (sink := self._sinks.pop(message.key, None)) is not None
        ):
            sink.message(message)
            if not self._sinks:
                self._idle.set()
            self._on_change()

    async def _send(self, worker: Worker) -> None:
        while True:
            await worker.send(await self._outbox.get())

    async def _drain_for_recycle(self) -> None:
        await self._recycle.wait()
        self._states.move(EngineState.RECYCLING, self._recycle_why)
        if self._sinks:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECYCLE_GRACE_S):
                    await self._idle.wait()


class _Watch:
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


def engine_version(backend: str) -> str:
    """The version of the engine's package, found without importing native code."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - costs memory, needed once

    if backend != "llama":
        return backend
    try:
        return f"llama-cpp-python {version('llama-cpp-python')}"
    except PackageNotFoundError:
        return "llama-cpp-python is not installed"
