"""The engine gives way between requests: to another model, to none, to a fresh worker, to a measurement."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from edged.api.errors import Busy, EngineLost, ModelUnusable
from edged.api.events import Failed, Finished
from edged.api.status import EngineState, ServiceState
from edged.ipc.messages import Measure
from tests.kit.daemon import alive
from tests.kit.service import chat, fake_model, fake_tree, running_service, until


def another(box, path, **model):
    """The configuration of ``box`` with another model."""
    config = box.engine.config
    return structs.replace(config, model=structs.replace(config.model, path=str(path), **model))


def test_requests_under_way_end_on_the_old_model_and_those_that_wait_get_the_new_one(tmp_path):
    async def scenario():
        old = fake_model(tmp_path, answer="the old one says this", step_s=0.02)
        new = fake_model(tmp_path, answer="the new one says that", load_s=0.3)
        async with running_service(fake_tree(old), tmp_path) as box:
            await box.ready()
            running = asyncio.create_task(box.ask("first"))
            await until(lambda: box.engine.running, "a request to run")
            change = box.engine.wishes.change(another(box, new, name="other", slots=2))
            await until(change.begun.is_set, "the change to begin")
            waiting = [asyncio.create_task(box.ask(f"later {number}")) for number in range(3)]
            assert (await running).text == "the old one says this"
            await change.settled
            assert [(await one).text for one in waiting] == ["the new one says that"] * 3
            assert (box.service.info().model.name, box.service.info().model.slots) == ("other", 2)
            assert box.service.state is ServiceState.READY

    asyncio.run(scenario())


def test_a_model_that_does_not_load_gives_way_to_the_one_before_and_nothing_that_waits_is_lost(tmp_path):
    async def scenario():
        old = fake_model(tmp_path, answer="still here")
        bad = fake_model(tmp_path, load_error="a tensor is missing")
        async with running_service(fake_tree(old), tmp_path) as box:
            await box.ready()
            change = box.engine.wishes.change(another(box, bad, name="bad"))
            answer = asyncio.create_task(box.ask("who is there?"))
            with pytest.raises(ModelUnusable, match="a tensor is missing"):
                await change.settled
            assert (await answer).text == "still here"
            assert box.service.info().model.name == "fake"
            assert not box.engine.failing
            with pytest.raises(ModelUnusable, match="cannot be read"):
                await box.engine.wishes.change(another(box, tmp_path / "gone.fake")).settled
            assert (await box.ask("and now?")).text == "still here"

    asyncio.run(scenario())


def test_a_model_that_loads_replaces_one_that_cannot(tmp_path):
    async def scenario():
        bad = fake_model(tmp_path, load_error="a tensor is missing")
        good = fake_model(tmp_path, answer="at last")
        async with running_service(fake_tree(bad), tmp_path) as box:
            await until(lambda: box.engine.state in {EngineState.BACKOFF, EngineState.BROKEN}, "a failure")
            await box.engine.wishes.change(another(box, good)).settled
            assert (await box.ask("anybody?")).text == "at last"

    asyncio.run(scenario())


def test_only_one_change_is_under_way_and_one_that_has_not_begun_can_be_taken_back(tmp_path):
    async def scenario():
        old = fake_model(tmp_path, answer="old", load_s=0.5)
        new = fake_model(tmp_path, answer="new")
        async with running_service(fake_tree(old), tmp_path) as box:
            await until(lambda: box.engine.state is EngineState.LOADING, "the old model to load")
            change = box.engine.wishes.change(another(box, new))
            with pytest.raises(Busy):
                box.engine.wishes.change(another(box, new))
            assert box.engine.wishes.withdraw(change)
            await box.ready()
            assert (await box.ask("who?")).text == "old"
            change = box.engine.wishes.change(another(box, new))
            await change.begun.wait()
            assert not box.engine.wishes.withdraw(change)
            await change.settled
            assert (await box.ask("who?")).text == "new"

    asyncio.run(scenario())


def test_an_unloaded_model_takes_no_memory_and_loads_at_the_next_request(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            pid = box.engine.worker_pid
            box.engine.wishes.unload()
            await until(lambda: box.engine.state is EngineState.UNLOADED, "the model to be unloaded")
            assert not alive(pid)
            assert (box.service.status().worker_pid, box.service.ready) == (None, True)
            assert (await box.ask("hello")).text == "echo: hello"
            assert box.engine.state is EngineState.READY

    asyncio.run(scenario())


def test_requests_under_way_are_answered_before_the_model_is_unloaded_or_reloaded(tmp_path):
    async def scenario():
        path = fake_model(tmp_path, answer="a long answer", step_s=0.02)
        async with running_service(fake_tree(path), tmp_path) as box:
            await box.ready()
            for wish in (box.engine.wishes.reload, box.engine.wishes.unload):
                await box.ready()
                pid = box.engine.worker_pid
                running = asyncio.create_task(box.ask("first"))
                await until(lambda: box.engine.running, "a request to run")
                wish()
                later = asyncio.create_task(box.ask("second"))
                assert (await running).text == (await later).text == "a long answer"
                assert box.engine.worker_pid not in {pid, None}

    asyncio.run(scenario())


def test_a_reload_of_an_unloaded_model_loads_it_once(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            box.engine.wishes.unload()
            await until(lambda: box.engine.state is EngineState.UNLOADED, "the model to be unloaded")
            restarts = box.engine.restarts
            box.engine.wishes.reload()
            await until(lambda: box.engine.state is EngineState.READY, "the model to be loaded")
            assert isinstance(await box.ask("hello"), Finished)
            assert box.engine.restarts == restarts

    asyncio.run(scenario())


def test_the_engine_is_measured_only_while_it_is_idle_and_answers_afterwards(tmp_path):
    async def scenario():
        path = fake_model(tmp_path, answer="measured", step_s=0.01)
        async with running_service(fake_tree(path), tmp_path) as box:
            await box.ready()
            order = Measure(batch=4, depth=64, prefill_tokens=64, decode_steps=4)
            measuring = asyncio.create_task(box.engine.measure(order))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await box.engine.measure(order)
            answer = asyncio.create_task(box.ask("what is it?"))
            measured = await measuring
            assert measured.decode_tps == pytest.approx(4 / (measured.step_ms / 1000))
            assert (await answer).text == "measured"
            running = asyncio.create_task(box.ask("what is it?"))
            await until(lambda: box.engine.running, "a request to run")
            with pytest.raises(Busy):
                await box.engine.measure(order)
            await running

    asyncio.run(scenario())


def test_a_worker_that_dies_while_it_is_measured_ends_the_measurement_and_not_the_service(tmp_path):
    async def scenario():
        flag = tmp_path / "crash"
        path = fake_model(tmp_path, crash_signal="SIGKILL", crash_phase="decode", crash_file=str(flag))
        async with running_service(fake_tree(path), tmp_path) as box:
            await box.ready()
            flag.touch()
            with pytest.raises(EngineLost):
                await box.engine.measure(Measure(depth=16, prefill_tokens=16, decode_steps=4))
            flag.unlink()
            assert not isinstance((await box.events(chat("alive?")))[-1], Failed)

    asyncio.run(scenario())
