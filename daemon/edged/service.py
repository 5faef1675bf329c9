"""The one way in for every transport: submit, cancel, status. Exactly one terminal event a request."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from msgspec import structs

from edged import __version__
from edged.api.errors import Busy, Cancelled, Draining, EdgeError, EngineLost, Expired, Loading, MemoryGuard
from edged.api.events import Accepted, Failed, Finished, Terminal, Timings
from edged.api.requests import Limits, check
from edged.api.status import Condition, EngineState, Info, ModelInfo, Prediction, ServiceState, Status
from edged.api.status import Limits as StatusLimits
from edged.host.quiet import QuietLog
from edged.ipc.messages import Done, Rejected, Token
from edged.job import Job
from edged.order import order_of
from edged.scheduling.admission import Admission
from edged.tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from edged.api.config import Config
    from edged.api.events import Event
    from edged.api.requests import Request
    from edged.api.status import MqttStatus
    from edged.engine.supervisor import EngineSupervisor
    from edged.guard.sampler import Sampler

log = logging.getLogger("edged.service")

FEATURES = ("chat", "generate", "classify", "stream", "cancel")
EMBEDDING_FEATURES = ("embed", "cancel")


class EdgeService:
    """See :class:`edged.transports.port.Service`. Lives in one event loop."""

    def __init__(
        self, config: Config, *, sampler: Sampler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._sampler = sampler
        self._clock = clock
        self._started_at = clock()
        self._log = QuietLog(log, clock)  # for the lines that clients can cause
        self._queue: Admission[Job] = Admission(config.limits.queue)
        self._jobs: dict[tuple[str, str], Job] = {}
        self._engine: EngineSupervisor | None = None
        self._shed_why = ""
        self._draining = False
        self._tally = Tally()
        self._extra_conditions: Callable[[], Sequence[Condition]] = tuple
        self._mqtt: Callable[[], MqttStatus | None] = _nothing
        self.idle = asyncio.Event()  # no request is accepted and unanswered
        self.idle.set()

    def attach(self, engine: EngineSupervisor) -> None:
        """Give the service its engine; the two know each other, so one must come first."""
        self._engine = engine

    def report(
        self,
        conditions: Callable[[], Sequence[Condition]],
        mqtt: Callable[[], MqttStatus | None] | None = None,
    ) -> None:
        """Add to ``status`` the conditions of transports, and how it stands with the broker."""
        self._extra_conditions = conditions
        self._mqtt = mqtt or _nothing

    # --- the port -------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        limits = self._config.limits
        return Limits(
            max_prompt_bytes=limits.max_prompt_bytes,
            max_tokens=limits.max_tokens,
            default_max_tokens=limits.default_max_tokens,
            default_ttl_s=limits.default_ttl_s,
        )

    @property
    def capacity(self) -> int:
        return self._config.limits.queue + self._config.model.slots

    @property
    def ready(self) -> bool:
        return self.state is ServiceState.READY

    @property
    def room(self) -> int:
        if not self.ready or self._engine is None:
            return 0
        unloaded = self._engine.state is EngineState.UNLOADED  # one request brings the model back
        free = self._config.model.slots if unloaded else self._engine.free_slots
        return max(0, free - len(self._queue))

    @property
    def state(self) -> ServiceState:
        if self._draining:
            return ServiceState.DRAINING
        engine = self._engine.state if self._engine else EngineState.ABSENT
        if engine in {EngineState.READY, EngineState.UNLOADED}:
            return ServiceState.DEGRADED if self._shed_why else ServiceState.READY
        never_loaded = self._engine is None or (self._engine.loaded is None and not self._engine.failing)
        starting = engine in {EngineState.ABSENT, EngineState.SPAWNING, EngineState.LOADING}
        return ServiceState.LOADING if never_loaded and starting else ServiceState.DEGRADED

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        try:
            job, ahead = self._accept(request)
        except EdgeError as error:
            self._tally.ended("refused", error.code)
            self._log.info("refused id=%s client=%s code=%s", request.id, request.client, error.code)
            yield Failed.of(request.id, error)
            return
        try:
            yield Accepted(id=request.id, position=ahead, eta_s=self._eta_s(ahead))
            while True:
                event = await job.events.get()
                self._pace(job)
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            self._abort(job, Cancelled("the client went away"))

    def cancel(self, client: str, request_id: str) -> bool:
        job = self._jobs.get((client, request_id))
        return job is not None and self._abort(job, Cancelled("the request was cancelled"))

    def status(self) -> Status:
        engine = self._engine
        first_s = self._tally.first_s
        return Status(
            node=self._config.node,
            version=__version__,
            pid=os.getpid(),
            worker_pid=engine.worker_pid if engine else None,
            state=self.state,
            engine=engine.state if engine else EngineState.ABSENT,
            uptime_s=self._clock() - self._started_at,
            model=self._model_info(),
            queue=len(self._queue),
            running=engine.running if engine else 0,
            decode_tps=self._tally.decode_tps,
            prefill_tps=self._tally.prefill_tps,
            first_token_ms=None if first_s is None else first_s * 1000,
            memory=structs.replace(self._sampler.status(), parts=engine.memory if engine else None),
            counters=self._tally.counters(engine.restarts if engine else 0),
            conditions=self._conditions(),
            capacity=self.capacity,
            host=self._sampler.host(),
            mqtt=self._mqtt(),
            predicted=self._predicted(),
            latencies=self._tally.latencies(),
        )

    def info(self) -> Info:
        limits = self._config.limits
        return Info(
            node=self._config.node,
            version=__version__,
            model=self._model_info(),
            board=self._config.board,
            limits=StatusLimits(
                max_prompt_tokens=self._model_info().context_tokens - 1,
                max_tokens=limits.max_tokens,
                max_prompt_bytes=limits.max_prompt_bytes,
                max_reply_bytes=limits.max_reply_bytes,
            ),
            features=EMBEDDING_FEATURES if self._config.model.embeddings else FEATURES,
        )

    # --- what the app uses ----------------------------------------------------------------

    def shed(self, why: str) -> None:
        """Refuse new requests while ``why`` is not empty."""
        if bool(why) != bool(self._shed_why):
            log.warning("shedding: %s", why) if why else log.info("taking requests again")
        self._shed_why = why

    def drain(self) -> None:
        """Take no more requests; those accepted go on."""
        self._draining = True

    def fail_all(self, error: EdgeError) -> None:
        """End every accepted request with ``error``."""
        for job in list(self._jobs.values()):
            self._abort(job, error)

    def expire(self) -> None:
        """End requests whose time has run out; called once a second.

        The worker ends those it works on by itself, and sooner, unless one step takes it that long.
        """
        now = self._clock()
        for job in self._queue.expired(now):
            self._end(
                job, Failed.of(job.request.id, Expired("the request waited longer than its time to live"))
            )
        for job in [job for job in self._jobs.values() if job.key is not None and job.deadline <= now]:
            self._abort(job, Expired("the request's time to live ran out before its answer was complete"))

    def dispatch(self) -> None:
        """Give waiting requests to free slots; called whenever either may have changed.

        A broken engine gets none for minutes: those who wait hear why, like those who ask then.
        """
        engine = self._engine
        if engine is not None and engine.config is not self._config:
            self._adopt(engine.config)
        if engine is not None and engine.state is EngineState.UNLOADED and len(self._queue):
            engine.wishes.load()
        if engine is not None and engine.state is EngineState.BROKEN:
            while (job := self._queue.next()) is not None:
                self._end(job, Failed.of(job.request.id, _unloadable(engine)))
        while engine is not None and engine.free_slots > 0 and (job := self._queue.next()) is not None:
            if job.deadline <= self._clock():
                error = Expired("the request waited longer than its time to live")
                self._end(job, Failed.of(job.request.id, error))
                continue
            job.started_at = self._clock()
            self._tally.started(job.started_at - job.accepted_at)
            order = structs.replace(job.order, ttl_s=job.deadline - job.started_at)
            job.key = engine.start(order, _JobSink(self, job))

    def _adopt(self, config: Config) -> None:
        """Serve by ``config``: another model, whose defaults count for those who wait, too."""
        self._config = config
        for job in list(self._jobs.values()):
            if job.key is None:
                try:
                    job.order = order_of(job.request, config)
                except EdgeError as error:
                    self._abort(job, error)

    # --- what a job's sink uses -----------------------------------------------------------

    def heard(self, job: Job, message: Token | Done | Rejected) -> None:
        """Turn the worker's words into events; what it still says of an ended job is dropped."""
        if job.ended:
            return
        if isinstance(message, Token):
            self._count(job)
            job.delta(message)
            self._pace(job)
        elif isinstance(message, Rejected):
            self._end(job, Failed(id=job.request.id, code=message.code, message=message.message))
        else:
            self._finish(job, message)

    def lost(self, job: Job, why: str) -> None:
        self._end(job, Failed.of(job.request.id, EngineLost(why, retry_after_s=2.0)))

    # --- inside ---------------------------------------------------------------------------

    def _accept(self, request: Request) -> tuple[Job, int]:
        """Queue ``request`` or raise the EdgeError that says why not."""
        check(request, self.limits)
        order = order_of(request, self._config)
        if self._draining:
            raise Draining("the daemon is stopping", retry_after_s=10.0)
        if self._shed_why:
            raise MemoryGuard(self._shed_why, retry_after_s=10.0)
        if self._engine is not None and self._engine.state is EngineState.BROKEN:
            raise _unloadable(self._engine)
        name = (request.client, request.id)
        if name in self._jobs:
            raise Busy("a request with this id is being answered", retry_after_s=5.0)
        now = self._clock()
        job = Job(request, order, now, now + (request.ttl_s or self._config.limits.default_ttl_s))
        try:
            job.ticket, ahead = self._queue.offer(job, priority=request.priority, deadline=job.deadline)
        except Busy as error:
            raise Busy(error.message, retry_after_s=self._eta_s(len(self._queue)) or 10.0) from None
        self._jobs[name] = job
        self.idle.clear()
        self._tally.accepted()
        self.dispatch()
        return job, ahead if job.key is None else 0

    def _finish(self, job: Job, done: Done) -> None:
        now = self._clock()
        first_at = job.first_at or now
        timings = Timings(
            queue_ms=(job.started_at - job.accepted_at) * 1000,
            first_ms=(first_at - job.accepted_at) * 1000,
            total_ms=(now - job.accepted_at) * 1000,
        )
        event = job.finished(done, timings)
        if self._end(job, event):
            self._tally.answered(
                done.usage,
                heard_tokens=job.pieces,
                waited_s=job.started_at - job.accepted_at,
                first_s=first_at - job.started_at,
                total_s=now - job.started_at,
                decode_s=done.decode_ms / 1000,
            )

    def _count(self, job: Job) -> None:
        """One more piece of an answer has come."""
        now = self._clock()
        self._tally.token(None if job.last_at is None else now - job.last_at)
        if job.first_at is None:
            job.first_at = now
            self._tally.first_token(now - job.accepted_at)
        job.last_at = now
        job.pieces += 1

    def _pace(self, job: Job) -> None:
        """Let an answer wait for a reader that is far behind, and go on when it is not."""
        if self._engine is None or job.key is None or job.ended or job.behind == job.paused:
            return
        job.paused = job.behind
        job.last_at = None  # the pause is the reader's
        (self._engine.pause if job.paused else self._engine.resume)(job.key)

    def _abort(self, job: Job, error: EdgeError) -> bool:
        """End a job from this side: out of the queue, or out of its slot."""
        if job.ended:
            return False
        if job.key is not None and self._engine is not None:
            self._engine.cancel(job.key)
        else:
            self._queue.remove(job.ticket)
        return self._end(job, Failed.of(job.request.id, error))

    def _end(self, job: Job, event: Terminal) -> bool:
        if not job.end(event):
            return False
        self._jobs.pop((job.request.client, job.request.id), None)
        if not self._jobs:
            self.idle.set()
        outcome, reason = (
            ("finished", event.finish) if isinstance(event, Finished) else ("failed", event.code)
        )
        self._tally.ended(outcome, reason)
        self._log.info("ended id=%s client=%s %s", job.request.id, job.request.client, reason)
        return True

    def _eta_s(self, ahead: int) -> float | None:
        """Seconds until the first token of a request with ``ahead`` others before it, from recent answers."""
        total_s, first_s = self._tally.total_s, self._tally.first_s
        if total_s is None or first_s is None:
            return None
        return round(ahead / self._config.model.slots * total_s + first_s, 1)

    def _predicted(self) -> Prediction | None:
        plan = self._config.plan
        return Prediction(**structs.asdict(plan)) if plan.decode_tps > 0 else None

    def _model_info(self) -> ModelInfo:
        model = self._config.model
        loaded = self._engine.loaded if self._engine else None
        return ModelInfo(
            name=model.name,
            quant=model.quant,
            file_bytes=_file_bytes(model.path),
            context_tokens=loaded.context if loaded else model.context,
            slots=model.slots,
        )

    def _conditions(self) -> tuple[Condition, ...]:
        found = list(self._extra_conditions())
        if self._shed_why:
            hint = "requests are refused with memory_guard until it is over"
            found.append(
                Condition(code="memory_guard", severity="warning", message=self._shed_why, hint=hint)
            )
        engine = self._engine
        if engine is not None and engine.failing:
            hint = "see `edgectl logs`; `edgectl models verify` checks the file"
            found.append(
                Condition(
                    code="engine_failed",
                    severity="error" if engine.broken else "warning",
                    message=engine.last_error,
                    hint=hint,
                )
            )
        if engine is not None and engine.tuning:
            message = f"the engine is tuned anew: {engine.tuning}"
            hint = "requests wait until it is back; this happens twice an hour at most"
            found.append(Condition(code="tuning", severity="warning", message=message, hint=hint))
        return tuple(found)


class _JobSink:
    """Binds one job to the service for the engine."""

    def __init__(self, service: EdgeService, job: Job) -> None:
        self._service = service
        self._job = job

    def message(self, message: Token | Done | Rejected) -> None:
        self._service.heard(self._job, message)

    def lost(self, why: str) -> None:
        self._service.lost(self._job, why)


def _nothing() -> None:
    """Stands for a transport that is switched off."""


def _unloadable(engine: EngineSupervisor) -> Loading:
    return Loading(f"no model is served: {engine.last_error}", retry_after_s=60.0)


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called with a plain string from the configuration
    except OSError:
        return 0
