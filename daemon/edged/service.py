"""The one way in for every transport: submit, cancel, status. Exactly one terminal event a request."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from msgspec import structs

from edged.api.errors import Busy, Cancelled, Draining, EdgeError, EngineLost, Expired, Loading, MemoryGuard
from edged.api.events import Accepted, Failed, Finished, Terminal
from edged.api.requests import check
from edged.api.status import EngineState, ServiceState
from edged.host.quiet import QuietLog
from edged.ipc.messages import Done, Rejected, Token
from edged.job import Job
from edged.order import order_of
from edged.reception import Reception
from edged.reporting import Reporting, limits_of, state_of
from edged.tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from edged.api.config import Config
    from edged.api.events import Event
    from edged.api.requests import Limits, Request
    from edged.api.status import Condition, Info, MqttStatus, Status
    from edged.engine.supervisor import EngineSupervisor
    from edged.guard.sampler import Sampler
    from edged.scheduling.intake import Intake

log = logging.getLogger("edged.service")


class EdgeService:
    """See :class:`edged.transports.port.Service`. Lives in one event loop."""

    def __init__(
        self, config: Config, *, sampler: Sampler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._clock = clock
        self._started_at = clock()
        self._log = QuietLog(log, clock)  # for the lines that clients can cause
        self._tally = Tally()
        self._reception = Reception(config, self._tally)
        self._queue = self._reception.queue
        self._reporting = Reporting(sampler, self._tally)
        self._jobs: dict[tuple[str, str], Job] = {}
        self._running: dict[int, Job] = {}  # those of them that the engine works on, by their keys
        self._engine: EngineSupervisor | None = None
        self._shed_why = ""
        self._draining = False
        self.idle = asyncio.Event()  # no request is accepted and unanswered
        self.idle.set()

    def attach(self, engine: EngineSupervisor) -> None:
        """Give the service its engine; the two know each other, so one must come first."""
        self._engine = engine

    def report(
        self,
        conditions: Callable[[], Sequence[Condition]],
        mqtt: Callable[[], MqttStatus | None],
    ) -> None:
        """Add to ``status`` the conditions of transports, and how it stands with the broker."""
        self._reporting.conditions = conditions
        self._reporting.mqtt = mqtt

    # --- the port -------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        return limits_of(self._config)

    @property
    def capacity(self) -> int:
        return self._reception.capacity

    @property
    def ready(self) -> bool:
        return self.state is ServiceState.READY

    @property
    def room(self) -> int:
        if not self.ready or self._engine is None:
            return 0
        unloaded = self._engine.state is EngineState.UNLOADED  # one request brings the model back
        free = self._config.model.slots if unloaded else self._engine.free_slots
        return max(0, free - self._kept_free - len(self._queue))

    @property
    def state(self) -> ServiceState:
        closed = bool(self._shed_why) or not self._reception.intake.share
        return ServiceState.DRAINING if self._draining else state_of(self._engine, closed=closed)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        try:
            job, accepted = self._accept(request)
        except EdgeError as error:
            self._tally.ended("refused", error.code)
            self._log.info("refused id=%s client=%s code=%s", request.id, request.client, error.code)
            yield Failed.of(request.id, error)
            return
        try:
            yield accepted
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
        return self._reporting.status(
            self._config,
            self._engine,
            state=self.state,
            uptime_s=self._clock() - self._started_at,
            queue=len(self._queue),
            capacity=self.capacity,
            intake=self._reception.intake,
            shed_why=self._shed_why,
        )

    def info(self) -> Info:
        return self._reporting.info(self._config, self._engine)

    # --- what the app uses ----------------------------------------------------------------

    def shed(self, why: str) -> None:
        """Refuse new requests while ``why`` is not empty."""
        if bool(why) != bool(self._shed_why):
            log.warning("shedding: %s", why) if why else log.info("taking requests again")
        self._shed_why = why

    def let_in(self, intake: Intake) -> None:
        """Use and promise as much of the box as ``intake`` says; what was accepted stays so."""
        before, self._reception.intake = self._reception.intake, intake
        if before.share != intake.share:
            log.warning(
                "%.0f %% of the usual work is let in: %s", 100 * intake.share, intake.why or "all is well"
            )
            self.dispatch()

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
        while (
            engine is not None
            and engine.free_slots > self._kept_free
            and (job := self._queue.next()) is not None
        ):
            if job.deadline <= self._clock():
                error = Expired("the request waited longer than its time to live")
                self._end(job, Failed.of(job.request.id, error))
                continue
            job.started_at = self._clock()
            self._tally.started(job.started_at - job.accepted_at)
            order = structs.replace(job.order, ttl_s=job.deadline - job.started_at)
            job.key = engine.start(order, _JobSink(self, job))
            self._running[job.key] = job

    @property
    def _kept_free(self) -> int:
        """Slots that stay empty while less is let in."""
        return self._config.model.slots - self._reception.slots

    def _adopt(self, config: Config) -> None:
        """Serve by ``config``: another model, whose defaults count for those who wait, too."""
        if config.model.path != self._config.model.path:
            self._tally.other_model()
        self._config = config
        self._reception.adopt(config)
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
            self._count(job, message.tokens)
            job.delta(message)
            self._pace(job)
        elif isinstance(message, Rejected):
            self._end(job, Failed(id=job.request.id, code=message.code, message=message.message))
        else:
            self._finish(job, message)

    def lost(self, job: Job, why: str) -> None:
        self._end(job, Failed.of(job.request.id, EngineLost(why, retry_after_s=2.0)))

    # --- inside ---------------------------------------------------------------------------

    def _accept(self, request: Request) -> tuple[Job, Accepted]:
        """Queue ``request`` or raise the EdgeError that says why not."""
        check(request, self.limits)
        order = order_of(request, self._config)
        if self._draining:
            raise Draining("the daemon is stopping", retry_after_s=10.0)
        if self._shed_why:
            raise MemoryGuard(self._shed_why, retry_after_s=10.0)
        engine = self._engine
        if engine is not None and engine.state is EngineState.BROKEN:
            raise _unloadable(engine)
        name = (request.client, request.id)
        if name in self._jobs:
            raise Busy("a request with this id is being answered", retry_after_s=5.0)
        now = self._clock()
        job = Job(request, order, now, now + (request.ttl_s or self._config.limits.default_ttl_s))
        serving = engine is not None and engine.state is EngineState.READY
        ahead, eta_s = self._reception.admit(job, running=self._running.values(), serving=serving)
        self._jobs[name] = job
        self.idle.clear()
        self._tally.accepted()
        self.dispatch()
        return job, Accepted(id=request.id, position=ahead if job.key is None else 0, eta_s=eta_s)

    def _finish(self, job: Job, done: Done) -> None:
        now = self._clock()
        if self._end(job, job.finished(done, now)):
            self._reception.learn(job, done.usage)
            self._tally.answered(
                done.usage,
                heard_tokens=job.heard_tokens,
                waited_s=job.started_at - job.accepted_at,
                first_s=(job.first_at or now) - job.started_at,
                total_s=now - job.started_at,
                decode_s=done.decode_ms / 1000,
            )

    def _count(self, job: Job, tokens: int) -> None:
        """So many more tokens of an answer have come."""
        if not tokens:
            return
        now = self._clock()
        self._tally.tokens(tokens, None if job.last_at is None else now - job.last_at)
        if job.first_at is None:
            job.first_at = now
            self._tally.first_token(now - job.accepted_at)
        job.last_at = now
        job.heard_tokens += tokens

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
        if job.key is not None:
            self._running.pop(job.key, None)
        if not self._jobs:
            self.idle.set()
        outcome, reason = (
            ("finished", event.finish) if isinstance(event, Finished) else ("failed", event.code)
        )
        self._tally.ended(outcome, reason)
        self._log.info("ended id=%s client=%s %s", job.request.id, job.request.client, reason)
        return True


class _JobSink:
    """Binds one job to the service for the engine."""

    def __init__(self, service: EdgeService, job: Job) -> None:
        self._service = service
        self._job = job

    def message(self, message: Token | Done | Rejected) -> None:
        self._service.heard(self._job, message)

    def lost(self, why: str) -> None:
        self._service.lost(self._job, why)


def _unloadable(engine: EngineSupervisor) -> Loading:
    return Loading(f"no model is served: {engine.last_error}", retry_after_s=60.0)
