"""The waiting room: bounded, urgent first, fair between clients. Pure; time is passed in."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from edged.api.errors import Busy
from edged.scheduling.round_robin import QUANTUM_TOKENS, RoundRobin

Entry = TypeVar("Entry")

PRIORITIES = 10
# A priority that waits is passed over this often in favour of higher ones, then one of its entries is served.
PATIENCE = 8
# Of the room, kept for clients of which nothing waits: who comes once must get in beside who floods.
RESERVED_SHARE = 1 / 4


class Ahead(Struct, frozen=True):
    """What is served before an entry, if nobody comes who is more urgent: at most so much."""

    entries: int
    work: float  # tokens


class Admission(Generic[Entry]):
    """At most ``capacity`` entries wait; each leaves through ``next``, ``remove`` or ``expired``.

    Clients take turns by deficit round robin within a priority, so none waits for more than its own work
    times the number of clients. Urgent ones come first; a lower priority has every ninth turn at least.
    """

    def __init__(self, capacity: int, *, quantum: float = QUANTUM_TOKENS) -> None:
        self._capacity = capacity
        self._levels: list[RoundRobin[Entry]] = [RoundRobin(quantum) for _ in range(PRIORITIES)]
        self._passed_over = [0] * PRIORITIES
        self._places: dict[int, tuple[int, str, float]] = {}  # ticket → priority, client, deadline
        self._of_client: dict[str, int] = {}  # entries that wait
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def work(self) -> float:
        """Tokens that wait."""
        return sum(level.work for level in self._levels)

    def open_to_one(self, share: float = 1.0) -> int:
        """Entries that may wait of one client; the rest of the room is for others."""
        room = self.room(share)
        return room - int(room * RESERVED_SHARE)

    def room(self, share: float = 1.0) -> int:
        """Entries that may wait while only ``share`` of the work is let in; none at 0."""
        return max(1, int(self._capacity * share)) if share > 0 else 0

    def offer(
        self, entry: Entry, *, client: str, priority: int, deadline: float, cost: float, share: float = 1.0
    ) -> int:
        """Queue ``entry``; its ticket. ``cost`` is its work in tokens. Raises Busy when there is no room."""
        mine = self._of_client.get(client, 0)
        if len(self._places) >= (self.open_to_one(share) if mine else self.room(share)):
            kept = "; what room is left is for clients with nothing waiting" if mine else ""
            raise Busy(f"the queue is full ({len(self._places)} requests are waiting{kept})")
        self._tickets += 1
        ticket = self._tickets
        self._levels[priority].add(client, ticket, entry, cost)
        self._places[ticket] = (priority, client, deadline)
        self._of_client[client] = mine + 1
        return ticket

    def ahead(self, client: str, priority: int, cost: float) -> Ahead:
        """What would be served before a new entry of ``client``: an upper bound but for rounding."""
        above = self._levels[priority + 1 :]
        level = self._levels[priority]
        mine, my_work = level.waiting_of(client)
        others = level.clients - bool(mine)
        return Ahead(
            entries=sum(map(len, above)) + min(len(level), mine + others * (mine + 1)),
            work=sum(one.work for one in above) + min(level.work, my_work + others * (my_work + cost)),
        )

    def next(self) -> Entry | None:
        """The entry to serve now, removed; None when nobody waits."""
        level = self._turn()
        if level is None:
            return None
        served = self._levels[level].next()
        if served is None:
            return None
        ticket, entry = served
        self._forget(ticket)
        return entry

    def remove(self, ticket: int) -> bool:
        """Forget a waiting entry; False when it no longer waits."""
        if ticket not in self._places:
            return False
        self._take_out(ticket)
        return True

    def expired(self, now: float) -> list[Entry]:
        """Remove and return the entries whose deadline has passed."""
        return [self._take_out(ticket) for ticket, (_, _, end) in list(self._places.items()) if end <= now]

    def _turn(self) -> int | None:
        """The priority to serve; those below it have been passed over once more."""
        waiting = [level for level in range(PRIORITIES) if self._levels[level]]
        if not waiting:
            return None
        impatient = [level for level in waiting if self._passed_over[level] >= PATIENCE]
        chosen = impatient[0] if impatient else waiting[-1]
        for level in waiting:
            self._passed_over[level] += level < chosen
        self._passed_over[chosen] = 0
        return chosen

    def _take_out(self, ticket: int) -> Entry:
        priority, client, _ = self._places[ticket]
        entry = self._levels[priority].remove(client, ticket)
        self._forget(ticket)
        return entry

    def _forget(self, ticket: int) -> None:
        priority, client, _ = self._places.pop(ticket)
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]
        if len(self._levels[priority]) == 0:
            self._passed_over[priority] = 0
