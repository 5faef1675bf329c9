"""Requests that a box has in hand and has not begun, oldest first (pure; time is passed in)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from edged.transports.mqtt.connection import Connection
from edged.transports.mqtt.held import MAX_BYTES, MAX_COUNT
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.pool_needs import Needs, unmet
from edged.transports.mqtt.topics import Ask, RequestTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edged.transports.mqtt.pool_needs import Can

HOPS, WAITED = "edged-hops", "edged-waited-ms"  # user properties of a request that was handed on
MAX_HOPS = 8  # from then on it is handed on only by a box that cannot answer it
LAST_HOP = 32  # boxes that took it for another's so often do not know each other


class _Wishes(Struct, frozen=True):
    """What a pool must know of a request before anybody checks it; nonsense is the desk's matter."""

    id: str | None = None
    needs: Needs | None = None
    ttl_s: float | None = None


class Waiting(Struct, frozen=True, kw_only=True):
    """A request, unacknowledged on ``connection``. Its topic is the one a device published it on."""

    connection: Connection
    message: Incoming
    place: Ask | RequestTopic
    id: str | None
    needs: Needs | None
    hops: int
    waited_s: float  # elsewhere
    arrived_s: float
    ttl_s: float

    @property
    def op(self) -> str:
        return self.place.op if isinstance(self.place, RequestTopic) else "chat"

    @property
    def deadline_s(self) -> float:
        return self.arrived_s + self.ttl_s - self.waited_s

    def lacks(self, can: Can) -> str:
        """What a box that ``can`` does not have for it; empty when it may answer."""
        return unmet(self.needs, self.op, can)

    def aged(self, now_s: float) -> Incoming:
        """The message with what is left of its time by MQTT 5."""
        if self.message.expiry_s is None:
            return self.message
        left_s = self.message.expiry_s - (now_s - self.arrived_s)
        return structs.replace(self.message, expiry_s=max(0, int(left_s)))

    def begun(self, now_s: float) -> tuple[Incoming, float]:
        """The message as it was published, and how long it has waited since, in seconds."""
        message = self.message
        if message.expiry_s is not None:  # what was left when it came here
            message = structs.replace(message, expiry_s=message.expiry_s + int(self.waited_s))
        return message, self.waited_s + now_s - self.arrived_s

    def notes(self, now_s: float) -> list[tuple[str, str]]:
        """The user properties it is handed on with."""
        waited_ms = (self.waited_s + now_s - self.arrived_s) * 1000
        return [(HOPS, str(self.hops + 1)), (WAITED, str(int(waited_ms)))]


def waiting(
    connection: Connection,
    message: Incoming,
    place: Ask | RequestTopic,
    *,
    now_s: float,
    default_ttl_s: float,
) -> Waiting:
    """``message`` as it waits; one that cannot be read needs nothing and is refused by whoever takes it."""
    wishes = _Wishes()
    if isinstance(place, RequestTopic):
        try:
            wishes = msgspec.json.decode(message.payload, type=_Wishes)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            wishes = _Wishes()
    notes = dict(message.user)
    ttl_s = wishes.ttl_s if wishes.ttl_s is not None and wishes.ttl_s > 0 else default_ttl_s
    waited_s = _number(notes.get(WAITED)) / 1000
    return Waiting(
        connection=connection,
        message=message,
        place=place,
        id=wishes.id,
        needs=wishes.needs,
        hops=_number(notes.get(HOPS)),
        waited_s=waited_s,
        arrived_s=now_s,
        ttl_s=min(ttl_s, message.expiry_s + waited_s) if message.expiry_s is not None else ttl_s,
    )


class Backlog:
    """Bounded in number and in bytes, besides by the receive maximum of the connections that fill it."""

    def __init__(self) -> None:
        self._entries: list[Waiting] = []
        self._left: set[Connection] = set()  # of what did not fit

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._entries))

    def add(self, entry: Waiting) -> bool:
        """Keep ``entry``; False when there is no room for it."""
        size = len(entry.message.payload) + sum(len(other.message.payload) for other in self._entries)
        if len(self._entries) >= MAX_COUNT or size > MAX_BYTES:
            self._left.add(entry.connection)
            return False
        self._entries.append(entry)
        return True

    def left(self) -> set[Connection]:
        """The connections on which something came that did not fit, once there is room for all of it."""
        if self._entries:
            return set()
        found, self._left = self._left, set()
        return {connection for connection in found if connection.alive}

    def remove(self, entry: Waiting) -> bool:
        """False when it has been taken meanwhile."""
        return bool(self.take(lambda other: other is entry))

    def restore(self, entry: Waiting) -> None:
        """Put back what nobody took, as the oldest."""
        self._entries.insert(0, entry)

    def take(self, suits: Callable[[Waiting], bool]) -> list[Waiting]:
        """Remove and return every entry that ``suits``."""
        found = [entry for entry in self._entries if suits(entry)]
        self._entries = [entry for entry in self._entries if not suits(entry)]
        return found

    def first(self, suits: Callable[[Waiting], bool]) -> Waiting | None:
        """Remove and return the oldest entry that ``suits``."""
        entry = next((entry for entry in self._entries if suits(entry)), None)
        if entry is not None:
            self.remove(entry)
        return entry


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else 0
