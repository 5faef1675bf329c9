"""Deficit round robin: who is served next so that each client gets the same work done. Pure.

In each round every client that waits is given ``quantum`` tokens; its first entry is served in the round in
which what it was given covers the entry's cost. That round is known as soon as an entry is the first of its
client, so the rounds in between are not walked through: a heap of rounds makes every operation O(log clients)
and the quantum can be small. A client that has nothing waiting is not known here and costs nothing.
(M. Shreedhar, G. Varghese: Efficient Fair Queuing Using Deficit Round Robin, 1996.)
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from itertools import count
from typing import Generic, TypeVar

Entry = TypeVar("Entry")

QUANTUM_TOKENS = 32  # far below any answer: two clients take turns after one answer, not after several
SPARE_ITEMS = 16  # of the heap, before those that no longer count are swept out


class _Client(Generic[Entry]):
    """What waits of one client; ``turn`` is the heap item that stands for it, None when none does."""

    __slots__ = ("paid", "turn", "waiting", "work")

    def __init__(self, paid: float) -> None:
        self.waiting: OrderedDict[int, tuple[Entry, float]] = OrderedDict()  # ticket → entry, cost
        self.work = 0.0  # tokens that wait
        self.paid = paid  # tokens of rounds that were spent on entries served before
        self.turn: tuple[int, int] | None = None


class RoundRobin(Generic[Entry]):
    """Entries of many clients. Costs are in tokens, tickets are unique and given by the caller."""

    def __init__(self, quantum: float = QUANTUM_TOKENS) -> None:
        self._quantum = quantum
        self._clients: dict[str, _Client[Entry]] = {}
        self._turns: list[tuple[int, int, str]] = []  # round, order of arrival in it, client
        self._order = count()
        self._round = 0
        self._size = 0
        self.work = 0.0  # tokens that wait

    def __len__(self) -> int:
        return self._size

    @property
    def clients(self) -> int:
        """Clients that wait."""
        return len(self._clients)

    def waiting_of(self, name: str) -> tuple[int, float]:
        """Entries of one client and their work."""
        client = self._clients.get(name)
        return (0, 0.0) if client is None else (len(client.waiting), client.work)

    def add(self, name: str, ticket: int, entry: Entry, cost: float) -> None:
        """Put ``entry`` behind what waits of the client ``name``."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._quantum * (self._round - 1))
        client.waiting[ticket] = (entry, cost)
        self._size += 1
        self.work += cost
        client.work += cost
        if client.turn is None:
            self._queue_up(name, client)

    def next(self) -> tuple[int, Entry] | None:
        """Ticket and entry whose turn it is, removed; None when nobody waits."""
        while self._turns:
            turn, order, name = heapq.heappop(self._turns)
            client = self._clients.get(name)
            if client is None or client.turn != (turn, order):
                continue  # its entry was taken out, or stands elsewhere by now
            self._round = turn
            ticket, (entry, cost) = client.waiting.popitem(last=False)
            client.paid += cost
            self._left(name, client, cost)
            return ticket, entry
        return None

    def remove(self, name: str, ticket: int) -> Entry:
        """Take out an entry that waits."""
        client = self._clients[name]
        first = next(iter(client.waiting)) == ticket
        entry, cost = client.waiting.pop(ticket)
        self._left(name, client, cost, first=first)
        return entry

    def _left(self, name: str, client: _Client[Entry], cost: float, *, first: bool = True) -> None:
        self._size -= 1
        self.work -= cost
        client.work -= cost
        if not client.waiting:
            del self._clients[name]
        elif first:
            self._queue_up(name, client)
        if not self._clients:
            self._turns.clear()
            self._round, self.work = 0, 0.0

    def _queue_up(self, name: str, client: _Client[Entry]) -> None:
        """Say in which round the first entry of ``client`` is served."""
        _, cost = next(iter(client.waiting.values()))
        turn = max(self._round, -int(-(client.paid + cost) // self._quantum))
        order = next(self._order)
        client.turn = (turn, order)
        heapq.heappush(self._turns, (turn, order, name))
        if len(self._turns) > 2 * len(self._clients) + SPARE_ITEMS:
            standing = [(one.turn[0], one.turn[1], name) for name, one in self._clients.items() if one.turn]
            heapq.heapify(standing)
            self._turns = standing
