"""The waiting room against a naive list."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edged.api.errors import Busy
from edged.scheduling.admission import Admission


class WaitingRoom(RuleBasedStateMachine):
    """The model is a list in order of arrival; every entry must leave exactly once, in the right order."""

    @initialize(capacity=st.integers(1, 5))
    def open(self, capacity):
        self.capacity = capacity
        self.queue: Admission[int] = Admission(capacity)
        self.waiting: list[tuple[int, int, float, int]] = []  # priority, entry, deadline, ticket
        self.tickets: list[int] = []
        self.entries = 0

    @rule(priority=st.integers(0, 9), deadline=st.integers(0, 20))
    def offer(self, priority, deadline):
        if len(self.waiting) == self.capacity:
            with pytest.raises(Busy, match=str(self.capacity)):
                self.queue.offer(-1, priority=priority, deadline=deadline)
            return
        self.entries += 1
        ticket, ahead = self.queue.offer(self.entries, priority=priority, deadline=deadline)
        assert ticket not in self.tickets
        assert ahead == sum(other >= priority for other, *_ in self.waiting)
        self.tickets.append(ticket)
        self.waiting.append((priority, self.entries, deadline, ticket))

    @rule()
    def serve(self):
        best = max(self.waiting, key=lambda item: (item[0], -item[1]), default=None)
        assert self.queue.next() == (best[1] if best else None)
        if best:
            self.waiting.remove(best)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def remove(self, data):
        ticket = data.draw(st.sampled_from(self.tickets))
        found = [item for item in self.waiting if item[3] == ticket]
        assert self.queue.remove(ticket) == bool(found)
        self.waiting = [item for item in self.waiting if item[3] != ticket]

    @rule(now=st.integers(0, 20))
    def expire(self, now):
        gone = [entry for _, entry, deadline, _ in self.waiting if deadline <= now]
        assert self.queue.expired(now) == gone
        self.waiting = [item for item in self.waiting if item[2] > now]

    @rule()
    def clear(self):
        assert self.queue.clear() == [entry for _, entry, *_ in self.waiting]
        self.waiting = []

    @invariant()
    def holds_what_waits_and_little_else(self):
        assert len(self.queue) == len(self.waiting) <= self.capacity
        assert len(self.queue._heap) <= 2 * self.capacity + 1


WaitingRoom.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestWaitingRoom = WaitingRoom.TestCase


def test_ghosts_of_cancelled_entries_do_not_pile_up():
    queue: Admission[int] = Admission(4)
    for entry in range(1000):
        ticket, ahead = queue.offer(entry, priority=entry % 10, deadline=1.0)
        assert ahead == 0
        queue.remove(ticket)
    assert len(queue._heap) <= 9
    assert queue.next() is None
