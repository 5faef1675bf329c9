"""Slow readers, short lives and short memory: each costs the request it belongs to, and no other."""

from __future__ import annotations

import asyncio

from edged.api.events import Delta, Finished
from edged.api.requests import Message, Request
from edged.api.status import EngineState
from edged.engine import supervisor
from edged.host.procfs import process_memory
from edged.job import MOST_UNREAD
from tests.kit.service import chat, fake_model, fake_tree, running_service, until

MIB = 1 << 20
LONG = " ".join(str(number * number) for number in range(170))  # goes round in no circle
SINGLY = {"limits": {"stream_interval_ms": 0}}  # each token is a piece
SYSTEM = "You watch a pump, and say in one word how it does, or which of its parts needs a person. " * 2


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 60))


async def drain(stream) -> list:
    return [event async for event in stream]


def test_a_slow_reader_stops_its_own_answer_and_no_other(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, answer=LONG)
        async with running_service(fake_tree(model, model={"slots": 2}, **SINGLY), tmp_path) as box:
            await box.ready()
            slow = box.service.submit(chat("hi", max_tokens=1000))
            await anext(slow)  # accepted; and then it does not read
            job = next(iter(box.service._jobs.values()))
            await until(lambda: job.paused, "the answer to wait for its reader")
            for _ in range(5):
                assert (await box.ask("hi", max_tokens=1000)).text == LONG
            assert MOST_UNREAD <= job.events.qsize() < MOST_UNREAD + 100
            events = await drain(slow)
            assert isinstance(events[-1], Finished)
            assert events[-1].text == LONG
            assert "".join(event.text for event in events if isinstance(event, Delta)) == events[-1].text
            assert not job.paused

    run(scenario())


def test_a_reader_that_never_reads_is_cancelled_like_any_other(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, answer=LONG)
        async with running_service(fake_tree(model, model={"slots": 1}, **SINGLY), tmp_path) as box:
            await box.ready()
            slow = box.service.submit(chat("hi", max_tokens=2000, id="slow"))
            await anext(slow)
            job = next(iter(box.service._jobs.values()))
            await until(lambda: job.paused, "the answer to wait for its reader")
            assert box.service.cancel("test", "slow")
            assert (await drain(slow))[-1].code == "cancelled"
            assert (await box.ask("hi", max_tokens=5)).text == LONG[:5]

    run(scenario())


def test_a_running_request_ends_when_its_time_is_over_and_frees_its_slot(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, answer=LONG, step_s=0.02)
        async with running_service(fake_tree(model, model={"slots": 1}, **SINGLY), tmp_path) as box:
            await box.ready()
            events = await box.events(chat("hi", max_tokens=2000, ttl_s=0.3))
            assert events[-1].code == "expired"
            assert any(isinstance(event, Delta) for event in events)
            assert (await box.ask("hi", max_tokens=3)).text == LONG[:3]

    run(scenario())


def test_an_answer_that_waits_for_its_reader_lends_its_slot_until_its_time_is_over(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, answer=LONG)
        async with running_service(fake_tree(model, model={"slots": 1}, **SINGLY), tmp_path) as box:
            await box.ready()
            slow = box.service.submit(chat("hi", max_tokens=2000, ttl_s=1.0))
            await anext(slow)
            job = next(iter(box.service._jobs.values()))
            await until(lambda: job.paused, "the answer to wait for its reader")
            assert (await box.ask("hi", max_tokens=3)).text == LONG[:3]
            await until(lambda: job.ended, "its time to be over")
            assert (await drain(slow))[-1].code == "expired"

    run(scenario())


def test_an_answer_that_nobody_reads_holds_up_no_other_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "UNREAD_GRACE_S", 0.2)

    async def scenario():
        model = fake_model(tmp_path, answer=LONG, step_s=0.002)
        async with running_service(fake_tree(model, model={"slots": 2}, **SINGLY), tmp_path) as box:
            await box.ready()
            slow = box.service.submit(chat("hi", max_tokens=2000))
            await anext(slow)
            job = next(iter(box.service._jobs.values()))
            await until(lambda: job.paused, "the answer to wait for its reader")
            read = asyncio.create_task(box.ask("hi", max_tokens=1000))
            await until(lambda: box.engine.running == 2, "the other to run")
            box.engine.wishes.reload()
            await until(lambda: box.engine.state is EngineState.RECYCLING, "the worker to give way")
            later = asyncio.create_task(box.ask("hi", max_tokens=3))
            assert (await read).text == LONG
            assert (await later).text == LONG[:3]
            lost = (await drain(slow))[-1]
            assert (lost.code, lost.message) == (
                "engine_lost",
                "nobody read this answer while a fresh worker was asked for",
            )

    run(scenario())


def test_short_memory_empties_the_cache_and_no_request_fails(tmp_path):
    async def scenario():
        model = fake_model(tmp_path, state_mib=20, step_s=0.001)
        tree = fake_tree(model, model={"slots": 2, "system": SYSTEM}, memory={"cache_mib": 200})
        async with running_service(tree, tmp_path) as box:
            await box.ready()

            def used() -> int:
                return process_memory(box.engine.worker_pid).rss_anon_bytes

            empty = used()
            for number in range(4):
                await box.ask(f"a question that is long enough to be kept {number}")
            full = used()
            assert full - empty > 60 * MIB
            answers = [asyncio.create_task(box.ask(f"under way {number}")) for number in range(4)]
            box.engine.cache(allowed=False)
            await until(lambda: full - used() > 50 * MIB, "the worker to give memory back")
            assert [last.text for last in await asyncio.gather(*answers)] == [
                f"echo: under way {number}" for number in range(4)
            ]
            assert (await box.ask("again")).usage.cached_tokens == 0
            box.engine.cache(allowed=True)
            await box.ask("first")
            assert (await box.ask("other")).usage.cached_tokens >= len(SYSTEM)

    run(scenario())


def test_a_template_that_was_of_use_is_kept_over_a_restart_when_asked_for(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, step_s=0.02), memory={"keep_prefixes": 2})
        tree["templates"] = {"pump": {"system": SYSTEM}}
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            for _ in range(3):
                last = await box.ask("how is it?", template="pump")
            assert last.usage.cached_tokens >= len(SYSTEM)
            await until(lambda: list(tmp_path.glob("prefixes/*.prefix")), "the prefix to be written")
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            first = await box.ask("how is it?", template="pump")
            assert first.usage.cached_tokens >= len(SYSTEM)

    run(scenario())


def test_a_template_of_the_configuration_begins_the_conversation(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path), model={"system": "The default."})
        tree["templates"] = {"door-camera": {"system": SYSTEM}, "gate": {"system": "Open or shut?"}}
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            with_it = await box.ask("who is it?", template="door-camera")
            without = await box.ask("who is it?")
            difference = with_it.usage.prompt_tokens - without.usage.prompt_tokens
            assert difference == len(SYSTEM) - len("The default.")
            unknown = await box.ask("who is it?", template="window")
            assert unknown.code == "bad_request"
            assert "'window'" in unknown.message
            assert "door-camera, gate" in unknown.message
            both = Request(
                id="both",
                client="test",
                op="chat",
                template="gate",
                messages=(Message(role="system", content="Mine."), Message(role="user", content="hi")),
            )
            assert (await box.events(both))[-1].code == "bad_request"
            raw = Request(id="raw", client="test", op="generate", template="gate", prompt="hi")
            assert (await box.events(raw))[-1].code == "bad_request"

    run(scenario())
