"""Promises P14 and P17 over the real service and decode loop, step by step: no process, no time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from edged.api.config import Memory
from edged.api.errors import MemoryGuard
from edged.api.events import Accepted, Delta, Failed, Finished
from edged.guard.sampler import Sampler
from edged.host.config import parse
from edged.scheduling.intake import OPEN, Intake
from edged.service import EdgeService
from tests.kit.service import chat
from tests.kit.staged_engine import StagedEngine

HOT = Intake(share=0.5, cause="thermal", why="the box is hot")
TOO_HOT = Intake(share=0.0, cause="thermal", why="the box is hot")
SHORT = Intake(share=0.25, cause="memory_guard", why="memory is short")
MOST_TURNS = 20_000


class Client:
    """One request and all it heard; a slow one reads only when told to."""

    def __init__(self, box: Box, request, *, slow: bool) -> None:
        self.request = request
        self.heard: list = []
        self.left = False
        self.reads = asyncio.Event()
        self._slow = slow
        self._events = box.service.submit(request)
        self.task = box.loop.create_task(self._read())

    async def _read(self) -> None:
        async for event in self._events:
            self.heard.append(event)
            if self._slow:
                self.reads.clear()
                await self.reads.wait()

    async def leave(self) -> None:
        """Hang up, as a transport does."""
        self.left = self.left or not self.task.done()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self._events.aclose()

    @property
    def ends(self) -> list:
        return [event for event in self.heard if isinstance(event, Finished | Failed)]


class Box:
    """Service, engine and clock; ``settle`` lets everything that can happen at this moment happen."""

    def __init__(self, *, slots: int = 2, queue: int = 4, **script) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        model = {"path": "/x", "backend": "fake", "slots": slots, "ubatch": 16, "context": 256}
        config = parse({"node": "box", "model": model, "limits": {"queue": queue}})
        self.service = EdgeService(config, sampler=Sampler(Memory()), clock=lambda: self.now)
        self.engine = StagedEngine(config, self.service.dispatch, clock=lambda: self.now, **script)
        self.service.attach(self.engine)
        self.clients: list[Client] = []

    def submit(self, text="hello", *, slow=False, **fields) -> Client:
        client = Client(self, chat(text, **fields), slow=slow)
        self.clients.append(client)
        self.settle()
        return client

    def settle(self) -> None:
        async def turns():
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.01
            self.engine.step()
            self.settle()

    def finish(self) -> None:
        """Go on until every request has its end."""
        self.service.let_in(OPEN)
        self.service.shed("")
        for _ in range(MOST_TURNS):
            for client in self.clients:
                client.reads.set()
            if all(client.task.done() for client in self.clients) and not self.engine.running:
                return
            self.step()
        raise AssertionError("a request has no end")

    def close(self) -> None:
        for client in self.clients:
            self.loop.run_until_complete(client.leave())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class OneEnd(RuleBasedStateMachine):
    """Anything may happen in any order; each accepted request ends exactly once."""

    @initialize(slots=st.integers(1, 3), queue=st.integers(1, 5))
    def open(self, slots, queue):
        self.box = Box(slots=slots, queue=queue)

    @rule(
        client=st.sampled_from("abc"),
        slow=st.booleans(),
        priority=st.integers(0, 9),
        text=st.sampled_from(["hi", "a longer question, which takes some steps to read", "x" * 300]),
        ttl_s=st.none() | st.floats(0.05, 5.0),
        max_tokens=st.integers(1, 200),
    )
    def submit(self, client, slow, priority, text, ttl_s, max_tokens):
        fields = {"priority": priority, "ttl_s": ttl_s, "max_tokens": max_tokens}
        self.box.submit(text, client=client, slow=slow, **fields)

    @rule(times=st.integers(1, 30))
    def step(self, times):
        self.box.step(times)

    @rule(data=st.data())
    def cancel(self, data):
        if self.box.clients:
            request = data.draw(st.sampled_from(self.box.clients)).request
            self.box.service.cancel(request.client, request.id)
            self.box.settle()

    @rule(data=st.data())
    def leave(self, data):
        if self.box.clients:
            client = data.draw(st.sampled_from(self.box.clients))
            self.box.loop.run_until_complete(client.leave())

    @rule(data=st.data())
    def read(self, data):
        if self.box.clients:
            data.draw(st.sampled_from(self.box.clients)).reads.set()
            self.box.settle()

    @rule(seconds=st.floats(0.01, 3.0))
    def expire(self, seconds):
        self.box.now += seconds
        self.box.service.expire()
        self.box.settle()

    @rule()
    def crash(self):
        self.box.engine.crash()
        self.box.settle()

    @rule(intake=st.sampled_from([OPEN, HOT, TOO_HOT, SHORT]))
    def let_in(self, intake):
        self.box.service.let_in(intake)
        self.box.settle()

    @rule(why=st.sampled_from(["", "memory is short"]))
    def shed(self, why):
        self.box.service.shed(why)

    @rule()
    def fail_all(self):
        self.box.service.fail_all(MemoryGuard("everything must go"))
        self.box.settle()

    @invariant()
    def nobody_ends_twice_and_nothing_follows_an_end(self):
        for client in self.box.clients if hasattr(self, "box") else ():
            assert len(client.ends) <= 1
            assert not client.ends or client.heard[-1] is client.ends[0]
            deltas = [event for event in client.heard if isinstance(event, Delta)]
            assert [delta.seq for delta in deltas] == list(range(len(deltas)))

    def teardown(self):
        if not hasattr(self, "box"):
            return
        try:
            self.box.finish()
            for client in self.box.clients:
                assert client.left or len(client.ends) == 1
                if client.ends and isinstance(client.ends[0], Finished):
                    text = "".join(event.text for event in client.heard if isinstance(event, Delta))
                    assert client.ends[0].text == text
            status = self.box.service.status()
            counters = status.counters
            assert (status.queue, status.running) == (0, 0)
            assert counters.accepted == counters.finished + counters.failed
            assert self.box.service.idle.is_set()
            assert not self.box.service._running
        finally:
            self.box.close()


OneEnd.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestOneEnd = OneEnd.TestCase


@pytest.fixture
def box_of():
    boxes = []

    def make(**options) -> Box:
        boxes.append(Box(**options))
        return boxes[-1]

    yield make
    for box in boxes:
        box.close()


def steps_of(box: Box, client: Client) -> int:
    """Engine steps until ``client`` has its end."""
    before = box.engine.steps
    for _ in range(MOST_TURNS):
        if client.task.done():
            return box.engine.steps - before
        box.step()
    raise AssertionError("no end")


@pytest.mark.parametrize("steps", [1, 2, 13])
@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_a_slot_is_free_for_the_next_one_step_after_a_cancel_while_reading_and_while_answering(
    box_of, steps, how
):
    box = box_of(slots=1, answer="0123456789" * 10)
    long = box.submit("x" * 150, max_tokens=100)  # ten steps to read
    box.step(steps)
    following = box.submit("hi", client="next", max_tokens=1)
    assert box.engine.running == 1
    if how == "cancel":
        assert box.service.cancel("test", long.request.id)
        box.settle()
        assert long.ends[0].code == "cancelled"
    else:
        box.loop.run_until_complete(long.leave())
    assert steps_of(box, following) <= 3  # one in which the slot is given back, two for an answer of a token


def test_beside_a_client_that_floods_a_light_one_takes_three_times_its_steps_alone_at_most(box_of):
    answer = "0123456789" * 4
    alone = box_of(slots=1, queue=32, answer=answer)
    solo = [steps_of(alone, alone.submit(f"question {n}", client="light")) for n in range(20)]
    box = box_of(slots=1, queue=32, answer=answer)
    flooded = []
    for number in range(20):
        while not isinstance(box.submit(f"flood {number}", client="flooder").heard[0], Failed):
            pass  # as much as the box takes, and one more
        light = box.submit(f"question {number}", client="light")
        assert isinstance(light.heard[0], Accepted)
        flooded.append(steps_of(box, light))
        assert light.ends[0].text == answer
    assert sorted(flooded)[18] <= 3 * sorted(solo)[18]
    box.finish()


def test_an_estimate_holds_on_an_engine_that_keeps_its_time(box_of):
    box = box_of(slots=2, queue=32, answer="0123456789" * 5)
    for number in range(4):  # what it learns from
        steps_of(box, box.submit(f"question {number}", client=f"c{number}"))
    waiting = [box.submit(f"question {number:2}", client=f"c{number}") for number in range(12)]
    for client in waiting:
        (accepted,) = client.heard[:1]
        client.eta_at = box.now + accepted.eta_s
    began = box.now
    first_at = {}
    while not all(client.task.done() for client in waiting):
        box.step()
        for number, client in enumerate(waiting):
            if any(isinstance(event, Delta) for event in client.heard):
                first_at.setdefault(number, box.now)
    for number, client in enumerate(waiting):
        # Within a third of the way there, or one answer: two come at a time.
        slack_s = max(0.34 * (first_at[number] - began), 0.6)
        assert abs(client.eta_at - first_at[number]) <= slack_s


def test_what_cannot_be_answered_in_time_is_refused_at_once_and_would_be_later(box_of):
    box = box_of(slots=1, queue=32, answer="0123456789" * 5)
    steps_of(box, box.submit("question"))
    for number in range(8):
        box.submit(f"question {number}", client=f"c{number}")
    patient = box.submit("patient", client="patient", ttl_s=60.0)
    assert isinstance(patient.heard[0], Accepted)
    hurried = box.submit("hurried", client="hurried", ttl_s=1.2)
    (refusal,) = hurried.heard
    assert (refusal.code, refusal.retryable) == ("busy", True)
    assert "within 1 s" in refusal.message
    assert 1.0 <= refusal.retry_after_s <= 6.0
    until = box.now + refusal.retry_after_s
    while box.now < until:
        box.step()
    again = box.submit("hurried", client="hurried", ttl_s=1.2)
    assert isinstance(again.heard[0], Accepted)
    box.finish()
    assert isinstance(again.ends[0], Finished)


def test_nobody_is_refused_over_time_before_anything_was_measured_or_planned(box_of):
    box = box_of(slots=1, queue=32)
    for number in range(20):
        client = box.submit("question", client=f"c{number}", ttl_s=0.02)
        assert isinstance(client.heard[0], Accepted)
        assert client.heard[0].eta_s is None
    box.now += 1
    box.service.expire()
    box.finish()


def test_a_hot_box_uses_half_its_slots_and_room_and_says_so(box_of):
    box = box_of(slots=2, queue=4)
    box.service.let_in(HOT)
    first = [box.submit(client=f"c{number}") for number in range(3)]
    assert box.engine.running == 1
    assert box.service.ready
    (condition,) = box.service.status().conditions
    assert (condition.code, box.service.status().intake) == ("thermal", 0.5)
    refused = box.submit(client="late").heard[0]
    assert (refused.code, refused.retryable, refused.retry_after_s) == ("thermal", True, 60.0)
    box.service.let_in(TOO_HOT)
    assert not box.service.ready
    assert box.submit(client="later").heard[0].code == "thermal"
    box.service.let_in(OPEN)
    assert box.engine.running == 2
    box.finish()
    assert all(isinstance(client.ends[0], Finished) for client in first)
    assert box.service.status().conditions == ()


def test_estimates_of_another_model_begin_anew(box_of):
    box = box_of(slots=1, queue=32)
    steps_of(box, box.submit("question"))
    assert box.submit("known").heard[0].eta_s is not None
    model = structs.replace(box.engine.config.model, path="/other")
    box.engine.config = structs.replace(box.engine.config, model=model)
    box.service.dispatch()
    assert box.submit("unknown", client="next").heard[0].eta_s is None
    box.finish()
