"""Carries out jobs, one at a time, and outlives restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from edged.api.errors import Busy, Cancelled, EdgeError, Internal
from edged.maintenance.records import JobError, JobFailed, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edged.maintenance.journal import Journal
    from edged.maintenance.records import JobState, JobType, Key, Order

log = logging.getLogger("edged.maintenance")

MAX_WAITING = 8
MAX_KEPT = 64  # the oldest that are over go first
MAX_ATTEMPTS = 3  # one that takes the daemon down with it must not do so for ever
REPORT_S = 1.0  # between two words about progress


class Task(Protocol):
    """What one type of job does."""

    async def run(self, job: Running) -> dict[str, object]:
        """Do it, and what to tell about it. Raises the EdgeError that says why not; may be cancelled."""

    def after_restart(self, record: Record) -> dict[str, object] | None:
        """What came of a job that was executing when the daemon ended: its result, or nothing."""

    @property
    def resumable(self) -> bool:
        """Doing it again goes on where it was."""


class Running:
    """The job at work: what was asked, and where its progress goes."""

    def __init__(self, jobs: Jobs, record: Record) -> None:
        self._jobs = jobs
        self.key = record.key
        self.order: Order = record.order
        self.final = False  # too late to be cancelled
        self.cancelled = False
        self.forgotten = False  # its id may be that of another job by now

    def progress(
        self, share: float | None, *, done_bytes: int | None = None, total_bytes: int | None = None
    ) -> None:
        if not self.forgotten:
            self._jobs.reported(self.key, share, done_bytes, total_bytes)


class Jobs:
    """The jobs of this box. ``on_change`` is called whenever one of ``records`` has news."""

    def __init__(
        self,
        journal: Journal,
        tasks: Mapping[JobType, Task],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._tasks = tasks
        self._wall = wall
        self._clock = clock
        self._news = asyncio.Event()
        self._running: Running | None = None
        self._work: asyncio.Task[dict[str, object]] | None = None
        self._reported_s = 0.0
        self.on_change: Callable[[], None] = lambda: None
        self.records: dict[Key, Record] = {record.key: record for record in journal.read()}
        for record in list(self.records.values()):
            if record.state == "executing":
                self._settle_interrupted(record)
            elif record.state == "init" and record.type not in tasks:
                self._settle_unsupported(record)

    async def run(self) -> None:
        """Carry out what waits, until cancelled; then a job under way stays so in the journal."""
        while True:
            waiting = next((one for one in self.records.values() if one.state == "init"), None)
            if waiting is None:
                self._news.clear()
                await self._news.wait()
            else:
                await self._execute(waiting)

    # --- what whoever has jobs uses -------------------------------------------------------

    async def offer(self, job_type: JobType, job_id: str, order: Order) -> None:
        """Take a job, durably; one that is known already stays as it is.

        Whatever is wrong becomes the job's own failure, so that there is one place to look at.
        """
        key = (job_type, job_id)
        if key in self.records:
            self.on_change()
            return
        record = Record(type=job_type, id=job_id, order=order)
        try:
            if job_type not in self._tasks:
                raise self._unsupported(job_type)
            if sum(1 for one in self.records.values() if not one.over) > MAX_WAITING:
                raise Busy(f"{MAX_WAITING} jobs are waiting already", retry_after_s=60.0)
        except EdgeError as error:
            await self._settle(record, "failed", error=JobError.of(error))
            return
        await self._settle(record, "init")
        self._news.set()

    async def refuse(self, job_type: JobType, job_id: str, error: EdgeError) -> None:
        """Tell of a job that is none; one with this id that is known already stays as it is."""
        if (job_type, job_id) not in self.records:
            await self._settle(Record(type=job_type, id=job_id), "failed", error=JobError.of(error))

    async def unknown(self, job_type: JobType, job_id: str) -> None:
        """Somebody remembers a job as executing: tell that it is not, if it is not known here."""
        error = JobFailed("interrupted", "this box knows nothing of this job any more")
        await self.refuse(job_type, job_id, error)

    async def cancel(self, job_type: str, job_id: str) -> None:
        """End a job that waits or runs; one that is over, or past the point of return, goes on."""
        record = self.records.get((job_type, job_id))
        if record is None or record.over:
            return
        if record.state == "init":
            await self._settle(record, "failed", error=JobError.of(_cancelled()))
        elif self._running and self._running.key == record.key and not self._running.final:
            self._running.cancelled = True
            if self._work:
                self._work.cancel()

    async def forget(self, job_type: str, job_id: str) -> None:
        """Drop what is known of a job; one that is not over is cancelled as far as it can be."""
        await self.cancel(job_type, job_id)
        if self._running and self._running.key == (job_type, job_id):
            self._running.forgotten = True
        if self.records.pop((job_type, job_id), None) is not None:
            await self._write()
            self.on_change()

    # --- inside ---------------------------------------------------------------------------

    def reported(
        self, key: Key, share: float | None, done_bytes: int | None, total_bytes: int | None
    ) -> None:
        """Note the progress of a running job; told once a second at most, and never written down."""
        record, now_s = self.records.get(key), self._clock()
        if record is None or record.over or (now_s - self._reported_s < REPORT_S and share != 1.0):
            return
        self._reported_s = now_s
        rounded = None if share is None else round(min(1.0, max(0.0, share)), 3)
        self._put(structs.replace(record, progress=rounded, done_bytes=done_bytes, total_bytes=total_bytes))

    async def _execute(self, record: Record) -> None:
        job = Running(self, record)
        self._running, self._reported_s = job, self._clock()
        try:
            await self._settle(record, "executing", attempts=record.attempts + 1)
            result = await self._do(job, record.type)
        except asyncio.CancelledError:
            if self._work is None:  # the daemon stops before the work has begun
                raise
            if not job.cancelled:  # the daemon stops
                self._work.cancel()
                await asyncio.gather(self._work, return_exceptions=True)
                raise
            await self._end(job, error=JobError.of(_cancelled()))
        except EdgeError as error:
            await self._end(job, error=JobError.of(error))
        except Exception:  # a task root: a defect ends this job and no other
            log.exception("job %s %s failed inside edged", *record.key)
            await self._end(job, error=JobError.of(Internal("a defect of edged; its log has more")))
        else:
            await self._end(job, result=result)
        finally:
            self._running = self._work = None

    async def _do(self, job: Running, job_type: JobType) -> dict[str, object]:
        if job.cancelled:  # while its begin was written down
            raise _cancelled()
        log.info("job %s %s begins", *job.key)
        self._work = asyncio.create_task(self._tasks[job_type].run(job), name=f"job {job.key[1]}")
        return await asyncio.shield(self._work)

    async def _end(
        self, job: Running, *, result: dict[str, object] | None = None, error: JobError | None = None
    ) -> None:
        outcome = error.code if error else "successful"
        log.info("job %s %s ended: %s", *job.key, f"{outcome}: {error.message}" if error else outcome)
        if job.forgotten:
            return
        record = self.records[job.key]
        if error:
            await self._settle(record, "failed", error=error)
        else:
            await self._settle(record, "successful", progress=1.0, result=result or {})

    async def _settle(self, record: Record, state: JobState, **changed: object) -> None:
        """Move a job to ``state``, and write that down."""
        self._put(structs.replace(record, state=state, **changed))
        over = [key for key, one in self.records.items() if one.over]
        for key in over[: max(0, len(self.records) - MAX_KEPT)]:
            del self.records[key]
        await self._write()

    async def _write(self) -> None:
        try:
            await self._journal.write(self.records.values())
        except OSError as error:
            log.warning("jobs cannot be written down, a restart forgets them: %s", error)

    def _put(self, record: Record) -> None:
        self.records[record.key] = structs.replace(record, ts=int(self._wall()))
        self.on_change()

    def _settle_unsupported(self, record: Record) -> None:
        """End a job that waited when its type was switched off; written down with the next change."""
        error = JobError.of(self._unsupported(record.type))
        self.records[record.key] = structs.replace(record, state="failed", error=error, ts=int(self._wall()))

    def _unsupported(self, job_type: JobType) -> JobFailed:
        hint = f"mqtt.job_types allows: {', '.join(self._tasks) or 'none'}"
        return JobFailed("unsupported", f"{job_type} is switched off here", hint=hint)

    def _settle_interrupted(self, record: Record) -> None:
        """Decide about a job that was executing when the daemon ended; written down with the next change."""
        task = self._tasks.get(record.type)
        result = task.after_restart(record) if task else None
        if result is not None:
            changed = structs.replace(record, state="successful", progress=1.0, result=result)
        elif task is not None and task.resumable and record.attempts < MAX_ATTEMPTS:
            changed = structs.replace(record, state="init")
        else:
            message = "the daemon ended in the middle of it"
            hint = "publish it again under another id"
            error = JobError(code="interrupted", message=message, hint=hint)
            changed = structs.replace(record, state="failed", error=error)
        with contextlib.suppress(KeyError):
            self.records[record.key] = structs.replace(changed, ts=int(self._wall()))


def _cancelled() -> Cancelled:
    return Cancelled("the job was cancelled")
