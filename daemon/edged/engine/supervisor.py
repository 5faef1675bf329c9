"""Keeps one worker alive and serving: spawns, loads, routes, notices death and hangs, backs off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from edged.api.errors import Busy, EngineLost, ModelUnusable
from edged.api.status import EngineState
from edged.engine.backoff import Backoff
from edged.engine.in_flight import InFlight
from edged.engine.load_order import load_order
from edged.engine.process import Worker, WorkerLost
from edged.engine.states import EngineStates
from edged.engine.tuner import Tuner
from edged.engine.watch import HangWatch
from edged.engine.wishes import Wishes
from edged.ipc.frames import FrameError
from edged.ipc.messages import (
    Done,
    Heartbeat,
    Measured,
    Ready,
    Rejected,
    Shrink,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edged.api.config import Config
    from edged.api.status import MemoryParts
    from edged.engine.in_flight import Sink
    from edged.ipc.messages import FromWorker, Measure, Start, ToWorker

log = logging.getLogger("edged.engine")

RECYCLE_GRACE_S = 10.0  # what is running may finish; a Pi makes some 50 tokens in that time
LOOK_S = 5.0  # between two looks at what else runs on the box
UNREAD_GRACE_S = 30.0  # for an answer that nobody reads, while others wait for another worker
IDLE_PATIENCE_S = 600.0  # for a moment without requests, before a new worker makes them wait
SPEED_TOKENS = 16  # an answer shorter than that says little about speed


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
        self.config = config  # the one in force; its model may be changed
        self._state_dir = state_dir
        self._place = place
        self._on_change = on_change
        self._states = EngineStates(lambda _state, _why: on_change())
        self._backoff = Backoff()
        self._outbox: asyncio.Queue[ToWorker] = asyncio.Queue()
        self._requests = InFlight(self._tell)
        self._recycle = asyncio.Event()
        self._recycle_why = ""
        self.wishes = Wishes()  # another model, a fresh worker, or none
        self._measuring: asyncio.Future[Measured] | None = None
        self.tuner = Tuner(config, state_dir / "selftest.json", place=place)
        self.tuning = ""  # why requests wait for an engine that is tuned anew
        self._cache_allowed = True
        self._beat = Heartbeat(progress=0, busy=False)  # the last one
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
        if self.state is not EngineState.READY:
            return 0
        return max(0, self.config.model.slots - len(self._requests) + self._requests.paused)

    @property
    def running(self) -> int:
        return len(self._requests)

    @property
    def memory(self) -> MemoryParts | None:
        """What the worker says its memory is for; None while none serves."""
        if self.loaded is None or self.state not in {EngineState.READY, EngineState.RECYCLING}:
            return None
        return structs.replace(self.loaded.memory, cache_bytes=self._beat.cache_bytes)

    def start(self, order: Start, sink: Sink) -> int:
        """Give ``order`` to the worker (only while ``free_slots`` > 0); the key for ``cancel``."""
        return self._requests.start(order, sink)

    async def idle(self) -> None:
        """Return when the worker has no request in hand."""
        await self._requests.none()

    def cancel(self, key: int) -> None:
        """The worker answers with Rejected(code="cancelled"), unless it has already finished."""
        self._requests.cancel(key)

    def pause(self, key: int) -> None:
        """Hear no more of an answer than is on its way, until ``resume``; others may have its slot."""
        if self._requests.pause(key):
            self._on_change()

    def resume(self, key: int) -> None:
        self._requests.resume(key)

    def cache(self, *, allowed: bool) -> None:
        """Whether the worker may keep evaluated prompts; when not, it lets go of them at its next step."""
        if allowed != self._cache_allowed:
            self._cache_allowed = allowed
            if self.state in {EngineState.READY, EngineState.RECYCLING}:
                self._tell(Shrink(to_bytes=self._cache_bytes))

    @property
    def _cache_bytes(self) -> int:
        return self.config.memory.cache_mib << 20 if self._cache_allowed else 0

    def recycle(self, why: str) -> None:
        """Replace the worker: no new requests, a grace for the running ones, then a fresh process."""
        if self.state in {EngineState.READY, EngineState.RECYCLING}:
            self._recycle_why = why
            self._recycle.set()

    async def measure(self, order: Measure) -> Measured:
        """What the engine needs for ``order``. Raises Busy unless it is ready and idle, EngineLost."""
        if self.state is not EngineState.READY or self._requests or self._measuring is not None:
            raise Busy("the engine can be measured only while it has nothing else to do", retry_after_s=30.0)
        self._measuring = asyncio.get_running_loop().create_future()
        self._tell(order)
        return await self._measuring

    # --- the life of the engine -----------------------------------------------------------

    async def run(self) -> None:
        """Keep a worker serving until cancelled; then the worker is gone and all requests are ended."""
        try:
            while True:
                if self.wishes.unloaded:
                    self._states.move(EngineState.UNLOADED, "until the next request")
                    await self.wishes.for_a_worker()
                before, trial = self.config, self.wishes.grant()
                if trial is not None:
                    self._use(trial.config)
                ready_s, why, planned = await self._attempt()
                self.restarts += 1
                if self.wishes.ended(trial, why):
                    log.warning("back to %s, %s cannot be served", before.model.name, self.config.model.name)
                    self._use(before)
                    continue
                if planned:
                    continue
                self.last_error = why
                delay_s = self._backoff.failed(ready_s)
                state = EngineState.BROKEN if self._backoff.broken else EngineState.BACKOFF
                self._states.move(state, f"{why}; next attempt in {delay_s:.1f} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self.wishes.any()
        finally:
            if self.state is not EngineState.ABSENT:
                self._states.move(EngineState.ABSENT, "stopped")

    def _use(self, config: Config) -> None:
        self.config = config
        self.tuner = Tuner(config, self._state_dir / "selftest.json", place=self._place)

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
            tuner = self.tuner
            order = await load_order(self.config, tuner, self._state_dir)
            worker = await Worker.spawn(self._place, cpus=tuner.cpus, spin_count=tuner.spin_count)
            self.worker_pid = worker.pid
            self._beat = Heartbeat(progress=0, busy=False)
            self._states.move(EngineState.LOADING, order.path)
            patience = self.config.engine
            self.loaded = await worker.load(
                order, load_timeout_s=patience.load_timeout_s, hang_timeout_s=patience.hang_timeout_s
            )
            ready_at = loop.time()
            if not self._cache_allowed:
                self._tell(Shrink(to_bytes=0))
            self.tuning = ""
            self.wishes.ready()
            self._states.move(
                EngineState.READY,
                f"{tuner.settings_text} load={self.loaded.load_ms:.0f} ms "
                f"first_token={self.loaded.first_token_ms:.0f} ms",
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

    def _tell(self, message: ToWorker) -> None:
        self._outbox.put_nowait(message)

    def _abandon(self, why: str) -> None:
        """End every request in flight, and a measurement."""
        if self._measuring is not None and not self._measuring.done():
            self._measuring.set_exception(EngineLost(why))
        self._measuring = None
        self._requests.abandon(why)

    async def _serve(self, worker: Worker) -> None:
        """Route messages until the worker is lost (raises) or has been recycled (returns)."""
        watch = HangWatch(self.config.engine.hang_timeout_s, self.config.engine.step_timeout_s)
        tasks = [
            asyncio.create_task(worker.receive_all(partial(self._route, watch))),
            asyncio.create_task(self._send(worker)),
            asyncio.create_task(watch.run()),
            asyncio.create_task(self._drain_for_recycle()),
            asyncio.create_task(self._drain_for_tuning(worker)),
            asyncio.create_task(self._drain_for_wish()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _route(self, watch: HangWatch, message: FromWorker) -> None:
        if isinstance(message, Token | Done | Rejected):
            alone = message.key == self._requests.alone
            if self._requests.heard(message):
                if isinstance(message, Done) and alone:
                    self._note_speed(message)
                self._on_change()
        elif isinstance(message, Heartbeat):
            watch.heard(message)
            self._beat = message
        elif isinstance(message, Measured):
            measuring, self._measuring = self._measuring, None
            if measuring is not None and not measuring.done():
                measuring.set_result(message)

    def _note_speed(self, done: Done) -> None:
        """Tell the tuner how fast an answer was that had the engine to itself."""
        tokens = done.usage.completion_tokens
        if tokens >= SPEED_TOKENS and done.decode_ms > 0:
            self.tuner.answered((tokens - 1) / done.decode_ms * 1000)

    async def _send(self, worker: Worker) -> None:
        while True:
            await worker.send(await self._outbox.get())

    async def _drain_for_recycle(self) -> None:
        await self._recycle.wait()
        self._hold(self._recycle_why)
        await self._requests.none(RECYCLE_GRACE_S)

    async def _drain_for_tuning(self, worker: Worker) -> None:
        """Return between two requests, once what else runs on the box asks for other settings.

        None is dropped but those that nobody reads: new ones wait in the queue, and those that run have all
        the time they need.
        """
        why = ""
        while not why:
            await asyncio.sleep(LOOK_S)
            why = self.tuner.watch(worker.pid)
        log.info("the engine will be tuned anew between requests: %s", why)
        await self._requests.none(IDLE_PATIENCE_S)
        self.tuning = self._recycle_why = why
        self._hold(why)
        await self._requests.none_unread(UNREAD_GRACE_S, why)

    async def _drain_for_wish(self) -> None:
        """Return between two requests, once another model, none, or a fresh worker is wanted."""
        self._recycle_why = await self.wishes.any()
        self.wishes.close()
        self._hold(self._recycle_why)
        await self._requests.none_unread(UNREAD_GRACE_S, self._recycle_why)

    def _hold(self, why: str) -> None:
        """Start no more requests on this worker."""
        if self.state is EngineState.READY:
            self._states.move(EngineState.RECYCLING, why)
