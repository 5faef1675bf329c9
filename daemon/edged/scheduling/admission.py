"""The waiting room: bounded, urgent first, then first come, first served. Pure; time is passed in."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from edged.api.errors import Busy

Entry = TypeVar("Entry")


class Admission(Generic[Entry]):
    """At most ``capacity`` entries wait; each leaves through ``next``, ``remove`` or ``expired``."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._heap: list[tuple[int, int]] = []  # (-priority, arrival)
        self._entries: dict[int, tuple[Entry, float]] = {}  # arrival → entry, deadline
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def offer(self, entry: Entry, *, priority: int, deadline: float) -> tuple[int, int]:
        """Queue ``entry``: (ticket, how many are served before it). Raises Busy when full."""
        if len(self._entries) >= self._capacity:
            raise Busy(f"the queue is full ({self._capacity} requests are waiting)")
        if len(self._heap) > 2 * self._capacity:  # entries that expired or were cancelled leave a ghost here
            self._heap = sorted(item for item in self._heap if item[1] in self._entries)
        self._arrivals += 1
        ticket = self._arrivals
        ahead = sum(1 for rank, arrival in self._heap if arrival in self._entries and rank <= -priority)
        heapq.heappush(self._heap, (-priority, ticket))
        self._entries[ticket] = (entry, deadline)
        return ticket, ahead

    def next(self) -> Entry | None:
        """The entry to serve now, removed; None when nobody waits."""
        while self._heap:
            _, ticket = heapq.heappop(self._heap)
            if (found := self._entries.pop(ticket, None)) is not None:
                return found[0]
        return None

    def remove(self, ticket: int) -> bool:
        """Forget a waiting entry; False when it no longer waits."""
        return self._entries.pop(ticket, None) is not None

    def expired(self, now: float) -> list[Entry]:
        """Remove and return the entries whose deadline has passed."""
        gone = [ticket for ticket, (_, deadline) in self._entries.items() if deadline <= now]
        return [self._entries.pop(ticket)[0] for ticket in gone]

    def clear(self) -> list[Entry]:
        """Remove and return everything, in order of arrival."""
        entries = [entry for entry, _ in self._entries.values()]
        self._entries.clear()
        self._heap.clear()
        return entries
