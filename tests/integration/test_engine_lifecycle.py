"""The engine's supervisor is stopped, starved and lied to at every moment of a worker's life."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from edged.api.events import Failed, Finished
from edged.api.status import EngineState
from edged.engine import process
from edged.engine.process import Worker, WorkerLost
from edged.engine.selftest import Choices, verdict_key
from edged.ipc.messages import EngineOptions, Load
from tests.kit.daemon import alive
from tests.kit.service import chat, fake_model, fake_tree, long_text, running_service, until

if TYPE_CHECKING:
    from edged.engine.supervisor import EngineSupervisor

OPTIONS = EngineOptions(context=128, slots=1, ubatch=8, threads=1)


def run(scenario, limit_s=60):
    return asyncio.run(asyncio.wait_for(scenario, limit_s))


def children() -> set[int]:
    """Processes this one has started and that still exist, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread that ends while we look hands its children to another one.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def reaching(engine: EngineSupervisor, state: EngineState) -> asyncio.Event:
    """Set when ``engine`` moves to ``state``; polling would miss the short ones."""
    reached = asyncio.Event()
    changed = engine._states._changed

    def watch(new: EngineState, why: str) -> None:
        changed(new, why)
        if new is state:
            reached.set()

    engine._states._changed = watch
    return reached


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """No process, no descriptor, wherever a test stopped the engine."""
    gc.collect()
    kin, open_before = children(), descriptors()
    yield
    gc.collect()
    assert children() <= kin
    assert descriptors() <= open_before


@pytest.mark.parametrize(
    ("moment", "script", "model"),
    [
        ("at once", {}, {}),
        ("spawn", {}, {}),
        ("load", {"load_s": 30}, {}),
        ("self-test", {"load_s": 30}, {"repack": "auto"}),
        ("ready", {}, {}),
        ("decode", {"step_s": 0.01, "answer": long_text(3000)}, {"context": 4096}),
        ("hung", {"crash_signal": "HANG"}, {}),
        ("stopped", {"crash_signal": "SIGSTOP"}, {}),
        ("backoff", {"load_error": "no"}, {}),
        ("recycling", {"step_s": 0.01, "answer": long_text(3000)}, {"context": 4096}),
    ],
)
def test_a_stop_at_any_moment_ends_every_request_once_and_leaves_no_process(tmp_path, moment, script, model):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, **script), model=model)
        tasks = asyncio.all_tasks()
        async with running_service(tree, tmp_path) as box:
            engine = box.engine
            asked = asyncio.create_task(box.events(chat("hello", max_tokens=2000)))
            if moment == "spawn":
                await reaching(engine, EngineState.SPAWNING).wait()
            elif moment == "load":
                await until(lambda: engine.state is EngineState.LOADING, moment)
            elif moment == "self-test":
                await until(children, moment)
            elif moment == "ready":
                await asked
            elif moment in ("decode", "hung", "stopped"):
                await until(lambda: engine.running, moment)
            elif moment == "backoff":
                await until(lambda: engine.state is EngineState.BACKOFF, moment)
            elif moment == "recycling":
                await until(lambda: engine.running, moment)
                engine.recycle("the test says so")
                await until(lambda: engine.state is EngineState.RECYCLING, moment)
            pid = engine.worker_pid
        assert engine.state is EngineState.ABSENT
        assert engine.worker_pid is None
        assert engine.running == 0
        assert not (pid and alive(pid))
        box.service.fail_all(Failed(id="", code="draining", message="the daemon is stopping").error())
        events = await asked
        assert sum(isinstance(event, Finished | Failed) for event in events) == 1
        assert asyncio.all_tasks() == tasks

    run(scenario())


def test_a_stop_at_random_moments_of_a_crashing_engine_leaves_nothing(tmp_path):
    dice = random.Random(7)

    async def scenario():
        for _ in range(12):
            fault = dice.choice(["SIGKILL", "EXIT", "GARBAGE"])
            model = fake_model(tmp_path, crash_signal=fault, crash_phase="prefill", crash_after=1)
            async with running_service(fake_tree(model), tmp_path) as box:
                asks = [asyncio.create_task(box.events(chat("x" * 90, client=f"c{n}"))) for n in range(3)]
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(asyncio.gather(*asks)), dice.uniform(0.1, 0.8))
            box.service.fail_all(Failed(id="", code="draining", message="stop").error())
            for events in await asyncio.gather(*asks):
                assert sum(isinstance(event, Finished | Failed) for event in events) == 1

    run(scenario())


async def hang_up(engine: EngineSupervisor) -> None:
    """Cut the link to a worker that cannot even die of it: for a moment nobody knows what happened."""
    os.kill(engine.worker_pid, signal.SIGSTOP)
    (receiving,) = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "receive_all"]
    receiving.get_coro().cr_frame.f_locals["self"]._link.shutdown(socket.SHUT_RDWR)
    await asyncio.wait({receiving})
    for _ in range(5):  # what follows from it at once
        await asyncio.sleep(0)


def test_a_stop_while_the_cause_of_a_death_is_sought_ends_the_requests_too(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, step_s=0.01, answer=long_text(3000))
        async with running_service(fake_tree(model, model={"context": 4096}), tmp_path) as box:
            asked = asyncio.create_task(box.events(chat("hello", max_tokens=2000)))
            await until(lambda: box.engine.running, "the request to run")
            await hang_up(box.engine)
        assert (await asked)[-1].code == "engine_lost"

    run(scenario())


def test_what_arrives_while_a_dead_worker_is_reaped_waits_for_the_next_one(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, step_s=0.01, answer=long_text(3000))
        async with running_service(fake_tree(model, model={"context": 4096}), tmp_path) as box:
            first = asyncio.create_task(box.events(chat("first", max_tokens=2000)))
            await until(lambda: box.engine.running, "the request to run")
            await hang_up(box.engine)
            second = asyncio.create_task(box.ask("second", max_tokens=5))
            assert (await first)[-1].code == "engine_lost"
            assert isinstance(await second, Finished)

    run(scenario())


def test_a_worker_that_survives_sigkill_does_not_take_the_daemon_with_it(tmp_path, monkeypatch):
    """As in a read that waits for a failing disk; here by a patience of no time at all."""

    async def scenario():
        monkeypatch.setattr(process, "KILL_WAIT_S", 0.0)
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            first = box.engine.worker_pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: box.service.ready and box.engine.worker_pid != first, "the next worker")
            box.engine.recycle("the test says so")
            await until(lambda: box.engine.restarts >= 2, "the recycling")
            assert (await box.ask("still here")).text == "echo: still here"
            monkeypatch.undo()
        await until(lambda: not children(), "the kernel to be done")

    run(scenario())


def test_the_reason_told_is_the_death_not_the_broken_pipe(tmp_path):
    async def scenario():
        armed = tmp_path / "armed"
        armed.touch()
        model = fake_model(tmp_path, crash_signal="SIGSEGV", crash_phase="decode", crash_file=str(armed))
        async with running_service(fake_tree(model), tmp_path) as box:
            for _ in range(3):
                last = await box.ask("hello")
                assert last.code == "engine_lost"
                assert "SIGSEGV" in last.message
                box.engine._backoff.failures = 0

    run(scenario())


def test_a_stop_while_a_worker_is_reaped_leaves_no_zombie(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            noticed = reaching(box.engine, EngineState.KILLING)
            box.engine.recycle("the test says so")
            await noticed.wait()
        assert not children()

    run(scenario())


# --- one worker by itself -----------------------------------------------------------------


async def loaded(path: Path, **patience: float):
    worker = await Worker.spawn(lambda _pid: None)
    try:
        patience = {"load_timeout_s": 30.0, "hang_timeout_s": 30.0, **patience}
        return await worker.load(Load(path=str(path), backend="fake", options=OPTIONS), **patience)
    finally:
        await worker.kill()


@pytest.mark.parametrize(
    ("script", "patience", "words"),
    [
        ({"load_error": "the file is a teapot"}, {}, "teapot"),
        ({"load_s": 30}, {"load_timeout_s": 0.5}, "more than 0 s|more than 1 s"),
        ({"crash_signal": "SIGSTOP", "crash_phase": "load"}, {"hang_timeout_s": 1.5}, "no heartbeat"),
    ],
)
def test_a_load_that_fails_says_how(tmp_path, script, patience, words):
    with pytest.raises(WorkerLost, match=words):
        run(loaded(fake_model(tmp_path, **script), **patience))


@pytest.mark.parametrize("name", ["missing.fake", "."])
def test_a_model_file_that_is_none_is_told(tmp_path, name):
    with pytest.raises(WorkerLost, match="cannot be loaded"):
        run(loaded(tmp_path / name))


def test_a_killed_worker_names_its_signal_and_killing_again_changes_nothing():
    async def scenario():
        worker = await Worker.spawn(lambda _pid: None)
        os.kill(worker.pid, signal.SIGBUS)
        assert await worker.cause() == "SIGBUS"
        assert await worker.kill() == "SIGBUS"
        assert await worker.kill() == "SIGBUS"

    run(scenario())


def test_a_worker_that_is_ended_on_purpose_is_no_news(tmp_path, capfd, caplog):
    for _ in range(5):
        run(loaded(fake_model(tmp_path)))
    assert "the link to the supervisor" not in capfd.readouterr().err
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_worker_that_cannot_be_placed_works_all_the_same():
    def place(_pid: int) -> None:
        raise PermissionError("not your group")

    async def scenario():
        worker = await Worker.spawn(place)
        assert alive(worker.pid)
        assert await worker.kill() == "SIGKILL"

    run(scenario())


# --- the self-test ------------------------------------------------------------------------


def test_a_setting_that_hangs_is_given_up_after_the_heartbeats_stop(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, crash_signal="SIGSTOP", crash_phase="prefill", crash_with_repack=True)
        tree = fake_tree(model, model={"repack": "auto"}, engine={"hang_timeout_s": 2})
        async with running_service(tree, tmp_path) as box:
            assert (await box.ask("hello")).text == "echo: hello"
            assert not box.engine.tuner.verdict.repack
            assert "heartbeat" in box.engine.tuner.verdict.trials[0].outcome

    run(scenario())


def test_a_model_that_loads_with_no_setting_is_explained_without_a_third_load(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, load_error="the file is a teapot"), model={"repack": "auto"})
        async with running_service(tree, tmp_path) as box:
            seen = set()

            def failed() -> bool:
                seen.update(children())
                return box.engine.restarts >= 1

            await until(failed, "the attempt to fail")
            assert "teapot" in box.engine.last_error
            assert len(seen) <= 2

    run(scenario())


def test_a_verdict_is_for_one_file_one_set_of_options_and_one_budget(tmp_path):
    path = fake_model(tmp_path)
    order = Load(path=str(path), backend="fake", options=OPTIONS)
    choices = Choices(repack=(True, False), threads=(2, 1))
    key = verdict_key(order, "engine 1", 100, choices)
    assert verdict_key(order, "engine 1", 100, choices) == key
    assert verdict_key(order, "engine 2", 100, choices) != key
    assert verdict_key(order, "engine 1", 200, choices) != key
    assert verdict_key(order, "engine 1", 100, Choices(repack=(True, False), threads=(2,))) != key
    bigger = EngineOptions(context=256, slots=1, ubatch=8, threads=1)
    assert verdict_key(structs.replace(order, options=bigger), "engine 1", 100, choices) != key
    path.write_text("answer = 'another model'\n")
    assert verdict_key(order, "engine 1", 100, choices) != key


# --- what is bad for the worker's line ----------------------------------------------------


def test_text_that_no_wire_carries_is_refused_and_the_engine_lives(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            before = box.engine.worker_pid
            last = await box.ask("hello", stop=("\ud800",))
            assert last.code == "bad_request"
            assert (await box.ask("next")).text == "echo: next"
            assert box.engine.worker_pid == before

    run(scenario())
