"""Jobs are done one at a time, outlive restarts, and never stay executing."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from edged.api.errors import Busy
from edged.maintenance.journal import Journal
from edged.maintenance.records import JobFailed, Order
from edged.maintenance.runner import MAX_ATTEMPTS, MAX_KEPT, MAX_WAITING, Jobs
from tests.integration.mqtt_peer import until


class Scripted:
    """A task that waits for its gate, then ends as it was told to."""

    def __init__(self, *, resumable: bool = False, after: dict[str, object] | None = None) -> None:
        self.resumable = resumable
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.final = False
        self._after = after

    async def run(self, job):
        self.begun.append(job.key[1])
        job.final = self.final
        job.progress(0.25, done_bytes=1, total_bytes=4)
        try:
            await self.gate.wait()
            if self.error:
                raise self.error
            return {"said": job.order.model}
        finally:
            self.ended.append(job.key[1])

    def after_restart(self, record):
        return self._after


class SlowDisk(Journal):
    """A journal whose writes take until the gate is open."""

    def __init__(self, path) -> None:
        super().__init__(path)
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, records):
        await self.gate.wait()
        await super().write(records)


@contextlib.asynccontextmanager
async def working(path, journal=None, **tasks):
    jobs = Jobs(journal or Journal(path), tasks, wall=lambda: 7.0)
    loop = asyncio.create_task(jobs.run())
    try:
        yield jobs
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


def state(jobs, job_type, job_id):
    record = jobs.records.get((job_type, job_id))
    return record and record.state


def written(path):
    return {one["id"]: one.get("state", "init") for one in json.loads(path.read_bytes())}


def test_jobs_are_done_one_after_the_other_and_each_state_is_written_down(tmp_path):
    async def scenario():
        task, path = Scripted(), tmp_path / "jobs.json"
        async with working(path, pull=task) as jobs:
            for job_id in ("a", "b"):
                await jobs.offer("pull", job_id, Order(model=f"model-{job_id}"))
                assert written(path)[job_id] == "init"
            await until(lambda: task.begun == ["a"])
            assert (state(jobs, "pull", "a"), state(jobs, "pull", "b")) == ("executing", "init")
            assert jobs.records["pull", "a"].progress is None  # the first word comes after a second
            assert written(path) == {"a": "executing", "b": "init"}
            task.gate.set()
            await until(lambda: state(jobs, "pull", "b") == "successful")
            await until(lambda: written(path) == {"a": "successful", "b": "successful"})
            assert jobs.records["pull", "b"].result == {"said": "model-b"}
            assert jobs.records["pull", "b"].ts == 7

    asyncio.run(scenario())


def test_a_repeated_id_is_the_same_job(tmp_path):
    async def scenario():
        task = Scripted()
        async with working(tmp_path / "jobs.json", pull=task) as jobs:
            for _ in range(3):
                await jobs.offer("pull", "a", Order(model="m"))
            task.gate.set()
            await until(lambda: state(jobs, "pull", "a") == "successful")
            await jobs.offer("pull", "a", Order(model="another"))
            assert state(jobs, "pull", "a") == "successful"
            assert task.begun == ["a"]

    asyncio.run(scenario())


def test_a_full_room_refuses_and_what_is_over_makes_room(tmp_path):
    async def scenario():
        task = Scripted()
        async with working(tmp_path / "jobs.json", pull=task) as jobs:
            for number in range(MAX_WAITING + 2):
                await jobs.offer("pull", f"j{number}", Order(model="m"))
            refused = jobs.records["pull", f"j{MAX_WAITING + 1}"]
            assert (refused.state, refused.error.code) == ("failed", "busy")
            assert refused.error.retry_after_s
            task.gate.set()
            await until(lambda: all(one.over for one in jobs.records.values()))
            for number in range(MAX_KEPT + 5):
                await jobs.offer("update", f"u{number}", Order())  # switched off: fails at once
            assert len(jobs.records) == MAX_KEPT
            assert jobs.records["update", f"u{MAX_KEPT + 4}"].error.code == "unsupported"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Busy("not now", retry_after_s=3.0), "busy"),
        (JobFailed("no_space", "the disk is full"), "no_space"),
        (ValueError("a defect"), "internal"),
    ],
)
def test_what_goes_wrong_in_a_job_is_its_error_and_the_next_is_done(tmp_path, error, code):
    async def scenario():
        task = Scripted()
        task.gate.set()
        task.error = error
        async with working(tmp_path / "jobs.json", pull=task) as jobs:
            await jobs.offer("pull", "a", Order(model="m"))
            await until(lambda: state(jobs, "pull", "a") == "failed")
            assert jobs.records["pull", "a"].error.code == code
            task.error = None
            await jobs.offer("pull", "b", Order(model="m"))
            await until(lambda: state(jobs, "pull", "b") == "successful")

    asyncio.run(scenario())


def test_a_cancelled_job_ends_wherever_it_is_unless_there_is_no_way_back(tmp_path):
    async def scenario():
        task = Scripted()
        async with working(tmp_path / "jobs.json", pull=task) as jobs:
            for job_id in ("runs", "waits", "final"):
                await jobs.offer("pull", job_id, Order(model="m"))
            await until(lambda: task.begun == ["runs"])
            await jobs.cancel("pull", "waits")
            await jobs.cancel("pull", "nobody")
            assert jobs.records["pull", "waits"].error.code == "cancelled"
            task.final = True
            await jobs.cancel("pull", "runs")
            await until(lambda: state(jobs, "pull", "runs") == "failed")
            assert jobs.records["pull", "runs"].error.code == "cancelled"
            await until(lambda: task.begun == ["runs", "final"])
            await jobs.cancel("pull", "final")
            task.gate.set()
            await until(lambda: state(jobs, "pull", "final") == "successful")

    asyncio.run(scenario())


def test_a_job_that_is_forgotten_while_it_runs_ends_and_is_not_told_of(tmp_path):
    async def scenario():
        task = Scripted()
        async with working(tmp_path / "jobs.json", pull=task) as jobs:
            await jobs.offer("pull", "a", Order(model="m"))
            await until(lambda: task.begun == ["a"])
            await jobs.forget("pull", "a")
            await until(lambda: task.ended == ["a"])
            await jobs.offer("pull", "b", Order(model="m"))
            await until(lambda: task.begun == ["a", "b"])
            assert set(jobs.records) == {("pull", "b")}

    asyncio.run(scenario())


def test_a_job_that_is_forgotten_says_nothing_in_place_of_the_next_one_of_its_id(tmp_path):
    async def scenario():
        task = Scripted()
        async with working(tmp_path / "jobs.json", pull=task) as jobs:
            await jobs.offer("pull", "a", Order(model="old"))
            await until(lambda: task.begun == ["a"])
            forgetting = asyncio.create_task(jobs.forget("pull", "a"))
            await until(lambda: not jobs.records)
            await jobs.offer("pull", "a", Order(model="new"))
            await forgetting
            task.gate.set()
            await until(lambda: jobs.records["pull", "a"].over)
            assert jobs.records["pull", "a"].result == {"said": "new"}

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["cancel", "forget"])
def test_a_job_that_is_ended_while_its_begin_is_written_down_does_not_begin(tmp_path, how):
    async def scenario():
        task, disk = Scripted(), SlowDisk(tmp_path / "jobs.json")
        async with working(tmp_path / "jobs.json", disk, pull=task) as jobs:
            await jobs.offer("pull", "a", Order(model="m"))
            disk.gate.clear()
            await until(lambda: state(jobs, "pull", "a") == "executing")
            ending = asyncio.create_task(getattr(jobs, how)("pull", "a"))
            await until(lambda: ending.done() or not jobs.records)
            disk.gate.set()
            await ending
            await jobs.offer("pull", "b", Order(model="m"))
            await until(lambda: task.begun)
            assert task.begun == ["b"]
            ended = jobs.records.get(("pull", "a"))
            assert (ended and ended.error.code) == ("cancelled" if how == "cancel" else None)

    asyncio.run(scenario())


def test_a_job_whose_type_was_switched_off_since_fails_and_the_others_are_done(tmp_path):
    async def scenario():
        path = tmp_path / "jobs.json"
        async with working(path, switch=Scripted()) as jobs:
            await jobs.offer("switch", "runs", Order(model="m"))
            await jobs.offer("switch", "waits", Order(model="m"))
            await until(lambda: written(path) == {"runs": "executing", "waits": "init"})
        task = Scripted()
        task.gate.set()
        async with working(path, pull=task) as jobs:
            assert jobs.records["switch", "waits"].error.code == "unsupported"
            assert "pull" in jobs.records["switch", "waits"].error.hint
            await jobs.offer("pull", "next", Order(model="m"))
            await until(lambda: state(jobs, "pull", "next") == "successful")
            await until(lambda: written(path) == {"runs": "failed", "waits": "failed", "next": "successful"})

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("resumable", "after", "outcome"),
    [(True, None, "successful"), (False, None, "interrupted"), (False, {"model": "m"}, "successful")],
)
def test_a_job_executing_when_the_daemon_ended_is_resumed_or_told(tmp_path, resumable, after, outcome):
    async def scenario():
        path = tmp_path / "jobs.json"
        async with working(path, pull=Scripted()) as jobs:
            await jobs.offer("pull", "a", Order(model="m"))
            await until(lambda: written(path) == {"a": "executing"})
        assert written(path) == {"a": "executing"}
        task = Scripted(resumable=resumable, after=after)
        task.gate.set()
        async with working(path, pull=task) as jobs:
            await until(lambda: jobs.records["pull", "a"].over)
            record = jobs.records["pull", "a"]
            assert (record.error.code if record.error else record.state) == outcome
            assert task.begun == (["a"] if resumable else [])

    asyncio.run(scenario())


def test_a_job_that_takes_the_daemon_down_each_time_is_given_up(tmp_path):
    async def scenario():
        path = tmp_path / "jobs.json"
        for attempt in range(MAX_ATTEMPTS):
            task = Scripted(resumable=True)
            async with working(path, pull=task) as jobs:
                if not attempt:
                    await jobs.offer("pull", "a", Order(model="m"))
                await until(lambda task=task: task.begun == ["a"])
        task = Scripted(resumable=True)
        async with working(path, pull=task) as jobs:
            assert jobs.records["pull", "a"].error.code == "interrupted"
            assert not task.begun

    asyncio.run(scenario())


def test_a_journal_that_is_none_is_left_aside_and_a_disk_that_fails_stops_no_job(tmp_path):
    async def scenario():
        path = tmp_path / "jobs.json"
        path.write_text("{")
        async with working(path, pull=Scripted()) as jobs:
            assert not jobs.records
        path.unlink()
        (tmp_path / "file").write_text("in the way")
        task = Scripted()
        task.gate.set()
        async with working(tmp_path / "file" / "jobs.json", pull=task) as jobs:
            await jobs.offer("pull", "a", Order(model="m"))
            await until(lambda: state(jobs, "pull", "a") == "successful")

    asyncio.run(scenario())
