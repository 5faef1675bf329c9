"""The service with a real worker process and the fake engine."""

from __future__ import annotations

import asyncio

import pytest

from edged.api.events import Accepted, Delta, Failed, Finished
from edged.api.requests import Sampling
from edged.api.status import EngineState, ServiceState
from tests.kit.service import chat, fake_model, fake_tree, long_text, running_service, until


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 60))


def test_an_answer_is_accepted_deltas_and_one_finished(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            events = await box.events(chat("héllo", id="a"))
            assert isinstance(events[0], Accepted)
            assert all(isinstance(event, Delta) for event in events[1:-1])
            assert [event.seq for event in events[1:-1]] == list(range(len(events) - 2))
            last = events[-1]
            assert isinstance(last, Finished)
            assert last.text == "echo: héllo" == "".join(event.text for event in events[1:-1])
            assert last.finish == "stop"
            assert last.usage.prompt_tokens == len("<user>héllo".encode())

    run(scenario())


def test_requests_that_arrive_while_loading_wait_and_are_answered(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path, load_s=0.3)), tmp_path) as box:
            assert box.service.state is ServiceState.LOADING
            assert not box.service.ready
            assert (await box.ask("early")).text == "echo: early"
            assert box.service.ready

    run(scenario())


def test_sixteen_clients_share_four_slots_and_each_gets_its_own_answer(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path, step_s=0.001)), tmp_path) as box:
            answers = await asyncio.gather(*(box.ask(f"number {n}", client=f"c{n}") for n in range(16)))
            assert [answer.text for answer in answers] == [f"echo: number {n}" for n in range(16)]
            assert box.service.status().queue == 0

    run(scenario())


def test_a_full_queue_refuses_with_busy_and_the_accepted_are_still_answered(tmp_path):
    async def scenario():
        tree = fake_tree(
            fake_model(tmp_path, step_s=0.005), limits={"queue": 2}, model={"slots": 1, "ubatch": 64}
        )
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            answers = await asyncio.gather(*(box.ask(f"n{n}", client=f"c{n}") for n in range(8)))
            refused = [answer for answer in answers if isinstance(answer, Failed)]
            assert {answer.code for answer in refused} == {"busy"}
            assert all(answer.retry_after_s for answer in refused)
            assert len(answers) - len(refused) == 3

    run(scenario())


def test_cancel_ends_a_running_request_and_frees_its_slot(tmp_path):
    async def scenario():
        tree = fake_tree(
            fake_model(tmp_path, answer=long_text(4000), step_s=0.01), model={"slots": 1, "context": 8192}
        )
        async with running_service(tree, tmp_path) as box:
            stream = box.service.submit(chat("long", id="long", max_tokens=2000))
            await anext(stream)
            await anext(stream)
            assert box.service.cancel("test", "long")
            assert not box.service.cancel("test", "long")
            last = [event async for event in stream][-1]
            assert isinstance(last, Failed)
            assert last.code == "cancelled"
            await until(lambda: box.engine.running == 0, "the slot to be free")

    run(scenario())


def test_closing_the_stream_early_frees_the_slot(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, answer=long_text(4000), step_s=0.01), model={"context": 8192})
        async with running_service(tree, tmp_path) as box:
            stream = box.service.submit(chat("long", max_tokens=2000))
            await anext(stream)
            await anext(stream)
            await stream.aclose()
            await until(lambda: box.engine.running == 0, "the slot to be free")
            assert box.service.idle.is_set()

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "finish", "text"),
    [
        ({"max_tokens": 4}, "length", "echo"),
        ({"stop": ("o: h",)}, "stop", "ech"),
        ({"stop": ("never",)}, "stop", "echo: hello"),
    ],
)
def test_an_answer_ends_where_it_was_told_to(tmp_path, fields, finish, text):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            last = await box.ask("hello", **fields)
            assert (last.finish, last.text) == (finish, text)

    run(scenario())


def test_a_prompt_longer_than_the_context_is_too_large_and_nothing_else_suffers(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, step_s=0.001), model={"context": 256})
        async with running_service(tree, tmp_path) as box:
            short, long = await asyncio.gather(box.ask("short"), box.ask("x" * 300))
            assert short.text == "echo: short"
            assert long.code == "too_large"
            assert "256" in long.message

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"sampling": Sampling(temperature=-1.0)}, "temperature"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": Sampling(top_p=1.5)}, "top_p"),
        ({"ttl_s": -1.0}, "ttl_s"),
        ({"priority": 10}, "priority"),
        ({"stop": ("",)}, "stop"),
        ({"id": "a/b"}, "id"),
        ({"client": "#"}, "client"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused_with_the_field_named(tmp_path, fields, word):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            last = await box.ask("hello", **fields)
            assert last.code == "bad_request"
            assert word in last.message

    run(scenario())


def test_a_request_that_waits_beyond_its_time_to_live_expires_without_being_computed(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path, load_s=0.5)), tmp_path) as box:
            asked = asyncio.create_task(box.ask("late", ttl_s=0.05))
            last = await asked
            assert last.code == "expired"
            assert box.service.status().counters.completion_tokens == 0

    run(scenario())


def test_a_model_that_cannot_load_opens_the_breaker_and_the_reason_is_told(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, load_error="the file is a teapot"))
        async with running_service(tree, tmp_path) as box:
            box.engine._backoff.failures = 4
            await until(lambda: box.engine.state is EngineState.BROKEN, "the breaker")
            last = await box.ask("hello")
            assert last.code == "loading"
            assert "teapot" in last.message
            (condition,) = box.service.status().conditions
            assert condition.code == "engine_failed"

    run(scenario())


def test_a_request_that_waits_when_the_breaker_opens_hears_why(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, load_s=0.2, load_error="the file is a teapot"))
        async with running_service(tree, tmp_path) as box:
            box.engine._backoff.failures = 4
            waiting = asyncio.create_task(box.ask("hello"))
            await until(lambda: box.service.status().queue, "the request to wait")
            assert box.engine.state is not EngineState.BROKEN
            last = await asyncio.wait_for(waiting, 30)
            assert (last.code, last.retryable) == ("loading", True)
            assert "teapot" in last.message
            assert box.service.status().queue == 0

    run(scenario())


def test_the_reason_of_a_failure_is_told_also_while_it_is_tried_again(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, load_s=0.2, load_error="the file is a teapot")
        async with running_service(fake_tree(model), tmp_path) as box:
            assert box.service.state is ServiceState.LOADING
            again = {EngineState.SPAWNING, EngineState.LOADING}
            await until(lambda: box.engine.last_error and box.engine.state in again, "another attempt")
            (condition,) = box.service.status().conditions
            assert "teapot" in condition.message
            assert box.service.state is ServiceState.DEGRADED
            model.write_text("")
            await box.ready()
            assert box.service.status().conditions == ()

    run(scenario())


def test_shedding_refuses_new_requests_and_ends_when_told(tmp_path):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            box.service.shed("too much memory")
            assert (await box.ask("no")).code == "memory_guard"
            assert box.service.state is ServiceState.DEGRADED
            box.service.shed("")
            assert (await box.ask("yes")).text == "echo: yes"

    run(scenario())


def test_a_recycled_worker_is_replaced_and_the_running_request_finishes_first(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, step_s=0.01), model={"slots": 2})
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            before = box.engine.worker_pid
            running = asyncio.create_task(box.ask("in flight"))
            await until(lambda: box.engine.running, "the request to run")
            box.engine.recycle("the test says so")
            waiting = asyncio.create_task(box.ask("next"))
            assert (await running).text == "echo: in flight"
            assert (await waiting).text == "echo: next"
            assert box.engine.worker_pid != before

    run(scenario())


def test_the_first_token_is_timed_when_it_comes_and_not_later(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, answer="x" * 50, step_s=0.01))
        async with running_service(tree, tmp_path) as box:
            timings = (await box.ask("hello")).timings
            # Fifty steps of at least 10 ms lie between the first token and the last.
            assert timings.total_ms - timings.first_ms > 400

    run(scenario())


def test_a_model_file_with_another_hash_is_not_loaded_and_the_right_one_is_read_once(tmp_path):
    import hashlib

    model = fake_model(tmp_path)
    right = hashlib.sha256(model.read_bytes()).hexdigest()

    async def wrong():
        tree = fake_tree(model, model={"sha256": "0" * 64})
        async with running_service(tree, tmp_path) as box:
            await until(lambda: "SHA-256" in box.engine.last_error, "the refusal")
            assert box.engine.loaded is None

    async def fits():
        async with running_service(fake_tree(model, model={"sha256": right}), tmp_path) as box:
            assert (await box.ask("hello")).text == "echo: hello"

    run(wrong())
    run(fits())
    remembered = (tmp_path / "model.json").stat().st_mtime_ns
    run(fits())
    assert (tmp_path / "model.json").stat().st_mtime_ns == remembered
    model.write_text("# changed")
    run(wrong())


def test_a_flood_of_refused_requests_does_not_flood_the_log(tmp_path, caplog):
    async def scenario():
        async with running_service(fake_tree(fake_model(tmp_path)), tmp_path) as box:
            await box.ready()
            caplog.clear()
            codes = {(await box.ask("hello", max_tokens=-1)).code for _ in range(2000)}
            assert codes == {"bad_request"}
            assert (await box.ask("hello")).text == "echo: hello"

    with caplog.at_level("INFO", logger="edged.service"):
        run(scenario())
    assert 1 < len(caplog.records) < 200
