"""Threads and wait policy are found by trying, and again when what else runs on the box has changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from edged.api.events import Finished
from edged.api.status import EngineState
from edged.engine import selftest, supervisor, tuner, tuning
from edged.engine.process import Worker, WorkerLost
from edged.engine.selftest import Choices, Sacrifice, choose, remembered
from edged.host.cpu_load import TICKS_PER_S, LoadMeter
from edged.ipc.messages import EngineOptions, Load
from tests.kit.model import smollm2
from tests.kit.service import chat, fake_model, fake_tree, running_service, until

WINDOW_S = 0.6  # in place of minutes


def run(scenario, limit_s=60):
    return asyncio.run(asyncio.wait_for(scenario, limit_s))


@pytest.fixture(autouse=True)
def nobody_has_set_a_wait_policy(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.fixture
def quick(monkeypatch):
    """A box whose minutes are short, with two CPUs that are alike."""
    monkeypatch.setattr(tuning, "WINDOW_S", WINDOW_S)
    monkeypatch.setattr(tuning, "REST_S", 1.0)
    monkeypatch.setattr(supervisor, "LOOK_S", 0.02)
    monkeypatch.setattr(tuner, "BACKGROUND_S", 0.05)
    monkeypatch.setattr(tuner, "fast_cpus", lambda: (0, 1))
    monkeypatch.setattr(tuner, "compute_threads", len)
    monkeypatch.setattr(selftest, "TRIAL_S", 0.0)


class OtherPrograms:
    """Writes a /proc/stat in which they keep ``busy`` of two CPUs busy, and the engine none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.busy = 0.0
        self._ticks = 0.0
        self._at = 0.0
        self._write(0)

    async def live(self, engine) -> None:
        clock = asyncio.get_running_loop().time
        self._at = clock()
        while True:
            now, before = clock(), self._at
            self._at = now
            self._ticks += (now - before) * self.busy * TICKS_PER_S
            self._write(engine.worker_pid)
            await asyncio.sleep(0.005)

    def _write(self, worker_pid) -> None:
        idle = int(1e6 + self._at * 2 * TICKS_PER_S)
        text = f"cpu0 {int(self._ticks)} 0 0 {idle}\ncpu1 0 0 0 {idle}\n"
        self._put("proc/stat", text)
        for pid in (worker_pid, os.getpid()):
            if pid:
                self._put(f"proc/{pid}/stat", f"{pid} (engine) S {'0 ' * 40}\n")

    def _put(self, place: str, text: str) -> None:
        file = self.root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").replace(file)


@contextlib.asynccontextmanager
async def lively_box(tmp_path, **script):
    """A service that sees ``others``, and whose engine gets slower with threads while they are busy."""
    neighbour = tmp_path / "neighbour"
    model = fake_model(
        tmp_path, step_s=0.001, neighbour_file=str(neighbour), neighbour_s=0.01, answer="x" * 40, **script
    )
    tree = fake_tree(model, model={"threads": 0})
    others = OtherPrograms(tmp_path / "root")
    async with running_service(tree, tmp_path) as box:
        box.engine.tuner._meter = LoadMeter((0, 1), others.root)
        living = asyncio.create_task(others.live(box.engine))

        def busy(cpus: float) -> None:
            others.busy = cpus
            neighbour.touch() if cpus else neighbour.unlink()

        try:
            yield box, busy
        finally:
            living.cancel()


def settings(box):
    return box.engine.tuner.verdict.settings


def test_threads_are_tried_again_when_a_neighbour_comes_and_when_it_leaves(tmp_path, quick):
    async def scenario():
        async with lively_box(tmp_path) as (box, busy):
            await box.ready()
            first = settings(box).threads
            busy(1.5)
            await until(lambda: box.engine.restarts == 1 and box.service.ready, "the engine to be tuned anew")
            assert settings(box).threads == 1
            assert 1.0 < box.engine.tuner.verdict.background < 2.0
            assert remembered(tmp_path / "selftest.json", box.engine.tuner.verdict.key).settings.threads == 1
            busy(0.0)
            await until(lambda: box.engine.restarts == 2 and box.service.ready, "the neighbour to be missed")
            assert box.engine.tuner.verdict.background < 0.5
            return first

    assert run(scenario()) in (1, 2)


def test_requests_that_come_all_the_time_are_all_answered_across_a_new_tuning(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(supervisor, "IDLE_PATIENCE_S", 0.3)

    async def scenario():
        async with lively_box(tmp_path) as (box, busy):
            await box.ready()
            busy(1.5)
            pids, outcomes = set(), []

            async def client(name):
                while box.engine.restarts < 1 or not box.service.ready:
                    pids.add(box.engine.worker_pid)
                    outcomes.append(await box.ask("hello", client=name, max_tokens=60))
                outcomes.append(await box.ask("after", client=name, max_tokens=60))

            await asyncio.gather(*(client(f"c{n}") for n in range(6)))
            assert all(isinstance(one, Finished) and one.text == "x" * 40 for one in outcomes)
            assert len(outcomes) > 12
            assert box.engine.last_error == ""

    run(scenario())


def test_a_long_answer_is_finished_before_the_engine_is_tuned_anew(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(supervisor, "IDLE_PATIENCE_S", 0.1)
    monkeypatch.setattr(supervisor, "RECYCLE_GRACE_S", 0.0)

    async def scenario():
        async with lively_box(tmp_path) as (box, busy):
            await box.ready()
            pid = box.engine.worker_pid
            busy(1.5)
            asked = asyncio.create_task(box.ask("hello", max_tokens=60))
            await until(lambda: box.engine.running, "the answer to begin")
            os.kill(pid, 19)  # SIGSTOP: it takes as long as we like
            await until(lambda: box.engine.state is EngineState.RECYCLING, "the engine to wait for it")
            waiting = asyncio.create_task(box.ask("next", max_tokens=60))
            (condition,) = box.service.status().conditions
            assert condition.code == "tuning"
            assert "other programs keep" in condition.message
            os.kill(pid, 18)
            assert isinstance(await asked, Finished)
            assert isinstance(await waiting, Finished)
            assert box.engine.worker_pid != pid
            assert box.service.status().conditions == ()

    run(scenario())


def test_the_guard_may_replace_a_worker_that_waits_to_be_tuned(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(supervisor, "IDLE_PATIENCE_S", 0.0)
    monkeypatch.setattr(supervisor, "RECYCLE_GRACE_S", 0.0)

    async def scenario():
        async with lively_box(tmp_path) as (box, busy):
            await box.ready()
            pid = box.engine.worker_pid
            asked = asyncio.create_task(box.ask("hello", max_tokens=60))
            await until(lambda: box.engine.running, "the answer to begin")
            os.kill(pid, 19)
            busy(1.5)
            await until(lambda: box.engine.state is EngineState.RECYCLING, "the engine to wait")
            box.engine.recycle("too much memory")
            assert (await asked).code == "engine_lost"
            await until(lambda: box.service.ready and box.engine.worker_pid != pid, "a new worker")

    run(scenario())


def test_a_number_of_threads_that_a_person_chose_stays(tmp_path, quick):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path), model={"threads": 2})
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            assert box.engine.tuner.verdict is None
            assert box.engine.tuner.watch(box.engine.worker_pid) == ""
        assert not (tmp_path / "selftest.json").exists()

    run(scenario())


def test_a_start_on_a_box_that_was_tuned_tries_nothing(tmp_path, quick):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path), model={"threads": 0})
        async with running_service(tree, tmp_path) as box:
            await box.ready()
        kept = (tmp_path / "selftest.json").stat().st_mtime_ns
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            assert box.engine.tuner.verdict is not None
        assert (tmp_path / "selftest.json").stat().st_mtime_ns == kept

    run(scenario())


def test_settings_stay_when_trying_again_kills_every_worker(tmp_path, quick):
    async def scenario():
        armed = tmp_path / "armed"
        async with lively_box(
            tmp_path, crash_signal="SIGSEGV", crash_phase="prefill", crash_file=str(armed), crash_after=1
        ) as (box, busy):
            await box.ready()
            before = box.engine.tuner.verdict
            armed.touch()
            busy(1.5)
            await until(lambda: box.engine.restarts == 1 and box.service.ready, "the engine to be back")
            assert box.engine.tuner.verdict == before
            armed.unlink()
            assert isinstance(await box.ask("hello"), Finished)

    run(scenario())


# --- one trial ------------------------------------------------------------------------------


def sacrifice(**fields):
    return Sacrifice(place=lambda _pid: None, timeout_s=30.0, hang_timeout_s=30.0, **fields)


def order(path, backend="fake"):
    options = EngineOptions(context=256, slots=1, ubatch=32, threads=2)
    return Load(path=str(path), backend=backend, options=options)


def test_every_choice_is_tried_and_put_on_record(tmp_path):
    neighbour = tmp_path / "neighbour"
    neighbour.touch()
    model = fake_model(tmp_path, step_s=0.001, neighbour_file=str(neighbour), neighbour_s=0.01)
    choices = Choices(repack=(True, False), threads=(4, 3, 2), spin_counts=(1000, 0))
    verdict = run(choose(order(model), "key", choices, sacrifice(), budget_bytes=0, background=0.0))
    tried = [(trial.repack, trial.spin_count, tuple(trial.speeds)) for trial in verdict.trials]
    assert tried == [
        (True, 1000, (4, 3, 2)),
        (False, 1000, (4, 3, 2)),
        (verdict.repack, 0, (4, 3, 2)),
    ]
    assert verdict.settings.threads == 2


def test_a_model_that_survives_nothing_is_lost_with_the_last_reason(tmp_path):
    model = fake_model(tmp_path, load_error="the file is a teapot")
    choices = Choices(repack=(True, False), threads=(1,))
    with pytest.raises(WorkerLost, match="teapot"):
        run(choose(order(model), "key", choices, sacrifice(), budget_bytes=0, background=0.0))


def wait_policy(pid) -> list[str]:
    """What the environment of a process says about it."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return [one for one in environment if one.startswith(("OMP_", "GOMP_"))]


@pytest.mark.parametrize("policy", [{}, {"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "77"}])
def test_a_worker_has_its_cpus_and_its_wait_policy_before_it_loads(monkeypatch, policy):
    for name, value in policy.items():
        monkeypatch.setenv(name, value)
    cpu = min(os.sched_getaffinity(0))

    async def scenario():
        worker = await Worker.spawn(lambda _pid: None, cpus=(cpu,), spin_count=0)
        try:
            # Within the system call that starts a program, it has no environment for a moment.
            found = await until(lambda: wait_policy(worker.pid), "the program to have begun")
            return os.sched_getaffinity(worker.pid), found
        finally:
            await worker.kill()

    cpus, found = run(scenario())
    assert cpus == {cpu}
    assert found == ([f"{name}={value}" for name, value in policy.items()] or ["GOMP_SPINCOUNT=0"])


def test_cpus_that_are_not_there_leave_the_worker_where_it_is(caplog):
    async def scenario():
        worker = await Worker.spawn(lambda _pid: None, cpus=(4095,))
        try:
            return os.sched_getaffinity(worker.pid)
        finally:
            await worker.kill()

    assert run(scenario()) == os.sched_getaffinity(0)
    assert "any CPU" in caplog.text


@pytest.mark.model
def test_the_real_engine_is_timed_with_each_number_of_threads_in_one_load():
    path = smollm2()
    trial = run(sacrifice().attempt(_without_repacking(order(path, "llama")), (2, 1), 1000), 120)
    assert trial.outcome == "ok"
    assert set(trial.speeds) == {1, 2}
    assert all(speed.decode_tps > 1 and speed.prefill_tps > 1 for speed in trial.speeds.values())
    assert trial.anon_bytes > 1 << 20


def _without_repacking(load: Load) -> Load:
    from msgspec import structs

    return structs.replace(load, options=structs.replace(load.options, repack=False))


def test_a_request_after_another_is_timed_and_two_at_once_are_not(tmp_path, quick):
    async def scenario():
        async with lively_box(tmp_path) as (box, _busy):
            await box.ready()
            usual = box.engine.tuner._policy._usual_tps
            await box.ask("hello", max_tokens=60)
            assert len(usual) == 1
            await asyncio.gather(*(box.events(chat("hello", max_tokens=60, client=n)) for n in "ab"))
            assert len(usual) == 1
            await box.ask("hi", max_tokens=5)  # too short to say anything
            assert len(usual) == 1

    run(scenario())
