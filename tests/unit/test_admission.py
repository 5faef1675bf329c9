"""The waiting room: bounded, urgent first, and nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edged.api.errors import Busy
from edged.scheduling.admission import PATIENCE, PRIORITIES, Admission

CLIENTS = ("a", "b", "c")


class WaitingRoom(RuleBasedStateMachine):
    """The model is a list in order of arrival; every entry must leave exactly once."""

    @initialize(capacity=st.integers(1, 8))
    def open(self, capacity):
        self.capacity = capacity
        self.queue: Admission[int] = Admission(capacity)
        self.waiting: dict[int, tuple[int, str, int, int]] = {}  # ticket → priority, client, deadline, entry
        self.tickets: list[int] = []
        self.entries = 0

    def of(self, client):
        return [ticket for ticket, (_, whose, _, _) in self.waiting.items() if whose == client]

    @rule(
        client=st.sampled_from(CLIENTS),
        priority=st.integers(0, 9),
        deadline=st.integers(0, 20),
        cost=st.integers(1, 500),
        share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    )
    def offer(self, client, priority, deadline, cost, share):
        room = self.queue.open_to_one(share) if self.of(client) else self.queue.room(share)
        terms = {"client": client, "priority": priority, "deadline": deadline, "cost": cost, "share": share}
        if len(self.waiting) >= room:
            with pytest.raises(Busy, match=str(len(self.waiting))):
                self.queue.offer(-1, **terms)
            return
        self.entries += 1
        ticket = self.queue.offer(self.entries, **terms)
        assert ticket not in self.tickets
        self.tickets.append(ticket)
        self.waiting[ticket] = (priority, client, deadline, self.entries)

    @rule()
    def serve(self):
        served = self.queue.next()
        if served is None:
            assert not self.waiting
            return
        (ticket,) = [ticket for ticket, (*_, entry) in self.waiting.items() if entry == served]
        priority, client, _, _ = self.waiting.pop(ticket)
        # The entries of one client and priority leave in the order they came.
        assert all(other > ticket for other in self.of(client) if self.waiting[other][0] == priority)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def remove(self, data):
        ticket = data.draw(st.sampled_from(self.tickets))
        assert self.queue.remove(ticket) == (self.waiting.pop(ticket, None) is not None)

    @rule(now=st.integers(0, 20))
    def expire(self, now):
        gone = {ticket: entry for ticket, (_, _, end, entry) in self.waiting.items() if end <= now}
        assert sorted(self.queue.expired(now)) == sorted(gone.values())
        self.waiting = {ticket: one for ticket, one in self.waiting.items() if ticket not in gone}

    @invariant()
    def holds_what_waits_and_little_else(self):
        assert len(self.queue) == len(self.waiting) <= self.capacity
        assert sum(map(len, self.queue._levels)) == len(self.waiting)
        for level in self.queue._levels:
            assert len(level._turns) <= 2 * level.clients + 17
        assert set(self.queue._of_client) == {client for _, client, _, _ in self.waiting.values()}
        assert self.queue.work == pytest.approx(sum(level.work for level in self.queue._levels))

    def teardown(self):
        if hasattr(self, "queue"):
            left = sorted(entry for *_, entry in self.waiting.values())
            assert sorted(self.queue.next() for _ in left) == left
            assert self.queue.next() is None
            assert self.queue.work == 0


WaitingRoom.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestWaitingRoom = WaitingRoom.TestCase


def offer(queue: Admission, entry, client: str, *, priority: int = 5, cost: float = 10) -> int:
    return queue.offer(entry, client=client, priority=priority, deadline=1.0, cost=cost)


def served(queue: Admission) -> list:
    order = []
    while (entry := queue.next()) is not None:
        order.append(entry)
    return order


def test_urgent_entries_leave_first():
    queue: Admission[str] = Admission(8)
    for priority in (1, 9, 5):
        offer(queue, f"p{priority}", "a", priority=priority)
    assert served(queue) == ["p9", "p5", "p1"]


@given(st.lists(st.integers(0, PRIORITIES - 2), min_size=1, max_size=PRIORITIES - 1, unique=True))
def test_urgent_entries_that_never_end_leave_a_turn_to_each_lower_priority(lower):
    queue: Admission[int] = Admission(64)
    for priority in lower:
        offer(queue, priority, "patient", priority=priority)
    turns = []
    for _ in range((PATIENCE + 1) * (len(lower) + 1)):
        offer(queue, 9, "urgent", priority=9)
        turns.append(queue.next())
    assert set(lower) <= set(turns)
    # … and little more than that: urgent ones have most of the turns.
    assert turns.count(9) >= len(turns) - len(lower)


def test_a_client_with_nothing_waiting_finds_room_beside_one_that_floods():
    queue: Admission[str] = Admission(8)
    for _ in range(6):
        offer(queue, "flood", "flooder")
    with pytest.raises(Busy, match="nothing waiting"):
        offer(queue, "flood", "flooder")
    offer(queue, "light", "light")
    with pytest.raises(Busy, match="nothing waiting"):
        offer(queue, "light", "light")
    offer(queue, "other", "other")
    with pytest.raises(Busy, match="8 requests are waiting"):
        offer(queue, "late", "late")
    assert served(queue).index("light") <= 1


def test_with_little_let_in_the_room_shrinks_but_what_waits_stays():
    queue: Admission[int] = Admission(8)
    for number in range(6):
        offer(queue, number, f"c{number}")
    for share in (0.5, 0.25, 0.0):
        with pytest.raises(Busy):
            queue.offer(9, client="new", priority=5, deadline=1.0, cost=1, share=share)
    assert len(served(queue)) == 6
    queue.offer(9, client="new", priority=5, deadline=1.0, cost=1, share=0.25)
    with pytest.raises(Busy):
        queue.offer(9, client="new", priority=5, deadline=1.0, cost=1, share=0.0)


def test_what_is_said_to_be_ahead_is_what_is_served_before():
    queue: Admission[str] = Admission(32)
    assert queue.ahead("light", 5, 10).entries == 0
    for number in range(10):
        offer(queue, f"flood {number}", "flooder")
    for number in range(3):
        offer(queue, f"urgent {number}", "other", priority=7)
    ahead = queue.ahead("light", 5, 10)
    assert (ahead.entries, ahead.work) == (4, 40)
    offer(queue, "light", "light")
    assert served(queue).index("light") <= 4
    assert queue.ahead("light", 5, 10).work == 0


def test_ghosts_of_cancelled_entries_do_not_pile_up():
    queue: Admission[int] = Admission(4)
    offer(queue, -1, "stays", priority=9)
    for entry in range(1000):
        ticket = offer(queue, entry, f"client {entry % 7}", priority=entry % 10)
        queue.remove(ticket)
    assert sum(len(level._turns) for level in queue._levels) <= 20
    assert queue.next() == -1
    assert queue.next() is None
