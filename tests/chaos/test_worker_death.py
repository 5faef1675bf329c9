"""The worker dies in every way at every moment; the daemon and its promises stay."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from edged.api.events import Failed, Finished
from edged.api.status import EngineState
from tests.kit.service import chat, fake_model, fake_tree, running_service, until

SEED = int(os.environ.get("EDGED_TEST_SEED", "20261122"))


def run(scenario, limit_s=120):
    return asyncio.run(asyncio.wait_for(scenario, limit_s))


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSEGV", "SIGABRT", "EXIT", "GARBAGE"])
@pytest.mark.parametrize("phase", ["load", "prefill", "decode"])
def test_every_request_in_flight_gets_one_terminal_event_and_the_next_is_answered(tmp_path, fault, phase):
    async def scenario():
        armed = tmp_path / "armed"
        armed.touch()
        model = fake_model(
            tmp_path, crash_signal=fault, crash_phase=phase, crash_file=str(armed), crash_after=1, load_s=0.1
        )
        async with running_service(fake_tree(model), tmp_path) as box:
            asks = [asyncio.create_task(box.events(chat("x" * 100, client=f"c{n}"))) for n in range(4)]
            await until(lambda: box.engine.restarts >= 1, "the worker to die")
            armed.unlink()
            for events in await asyncio.gather(*asks):
                assert sum(isinstance(event, Finished | Failed) for event in events) == 1
                if phase != "load":
                    assert events[-1].code == "engine_lost"
            assert (await box.ask("again")).text == "echo: again"

    run(scenario())


@pytest.mark.parametrize("phase", ["load", "decode"])
def test_a_stopped_worker_is_found_and_replaced(tmp_path, phase):
    async def scenario():
        armed = tmp_path / "armed"
        armed.touch()
        model = fake_model(
            tmp_path, crash_signal="SIGSTOP", crash_phase=phase, crash_file=str(armed), load_s=0.05
        )
        tree = fake_tree(model, engine={"hang_timeout_s": 2})
        async with running_service(tree, tmp_path) as box:
            asked = asyncio.create_task(box.ask("hello"))
            await until(lambda: box.engine.worker_pid, "a worker")
            stopped = box.engine.worker_pid
            await until(lambda: box.engine.restarts >= 1, "the hang to be noticed")
            armed.unlink()
            last = await asked
            if phase == "decode":
                assert last.code == "engine_lost"
                assert "heartbeat" in last.message
            assert (await box.ask("again")).text == "echo: again"
            assert box.engine.worker_pid != stopped

    run(scenario())


def test_a_step_that_never_ends_is_found_though_the_process_lives(tmp_path):
    async def scenario():
        armed = tmp_path / "armed"
        armed.touch()
        model = fake_model(tmp_path, crash_signal="HANG", crash_phase="decode", crash_file=str(armed))
        tree = fake_tree(model, engine={"hang_timeout_s": 30, "step_timeout_s": 2})
        async with running_service(tree, tmp_path) as box:
            last = await box.ask("hello")
            assert "step" in last.message
            armed.unlink()
            assert (await box.ask("again")).text == "echo: again"

    run(scenario())


def test_random_deaths_never_lose_or_double_a_terminal_event(tmp_path):
    dice = random.Random(SEED)
    print(f"seed {SEED}")

    async def scenario():
        tree = fake_tree(fake_model(tmp_path, step_s=0.001, load_s=0.01))
        async with running_service(tree, tmp_path) as box:
            for _ in range(25):
                await until(lambda: box.engine.worker_pid, "a worker")
                # Chaos asks how it survives death, not how it backs off: every death counts as the first.
                box.engine._backoff.failures = 0
                asks = [asyncio.create_task(box.events(chat("y" * 50, client=f"c{n}"))) for n in range(6)]
                await asyncio.sleep(dice.random() * 0.1)
                if pid := box.engine.worker_pid:
                    os.kill(pid, dice.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
                for events in await asyncio.gather(*asks):
                    terminals = [event for event in events if isinstance(event, Finished | Failed)]
                    assert len(terminals) == 1
                    assert events[-1] is terminals[0]
            box.engine._backoff.failures = 0
            assert (await box.ask("still here")).text == "echo: still here"
            assert box.engine.state is EngineState.READY

    run(scenario())


def test_engine_options_that_kill_the_worker_are_found_and_remembered(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, crash_signal="SIGSEGV", crash_phase="prefill", crash_with_repack=True)
        tree = fake_tree(model, model={"repack": "auto"})
        async with running_service(tree, tmp_path) as box:
            assert (await box.ask("hello")).text == "echo: hello"
            assert box.engine.restarts == 0
            verdict = box.engine.tuner.verdict
            assert [(trial.repack, trial.survived) for trial in verdict.trials] == [
                (True, False),
                (False, True),
            ]
            assert "SIGSEGV" in verdict.trials[0].outcome
        first = (tmp_path / "selftest.json").stat().st_mtime_ns
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            assert (tmp_path / "selftest.json").stat().st_mtime_ns == first

    run(scenario())


def test_a_worker_that_outgrows_its_budget_is_recycled_without_failing_a_request(tmp_path):
    from edged.guard.policy import GuardPolicy, Verdict
    from edged.guard.sampler import Sampler

    async def scenario():
        model = fake_model(tmp_path, leak_mib=20, step_s=0.001)
        tree = fake_tree(model, memory={"budget_mib": 160, "min_available_mib": 0})
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            first = box.engine.worker_pid
            sampler, policy = Sampler(box.service._config.memory), GuardPolicy()
            outcomes = []
            while box.engine.worker_pid in (first, None):
                last = await box.ask("hello")
                outcomes.append(last)
                decision = policy.step(sampler.sample(box.engine.worker_pid))
                if decision.verdict is Verdict.RECYCLE:
                    box.engine.recycle(decision.why)
                    await until(lambda: box.engine.worker_pid not in (first, None), "a new worker")
            assert all(isinstance(last, Finished) for last in outcomes)
            assert len(outcomes) > 3
            assert (await box.ask("after")).text == "echo: after"
            assert sampler.sample(box.engine.worker_pid).worker_bytes < 160 << 20

    run(scenario())
