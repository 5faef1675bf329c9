"""Requests that a broker delivered beyond what the box takes: they wait here, unacknowledged (pure).

A broker that knows no receive maximum (3.1.1), or does not keep to it, sends more. Without their
acknowledgement it stops at its own limit, and so back-pressure reaches whoever publishes. That of mosquitto
2.0.11 grows by one with each acknowledgement.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.transports.mqtt.exchange import Receipt
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.topics import Ask, RequestTopic

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_COUNT = 1024  # mosquitto begins with 20 by default, EMQX sends 32
MAX_BYTES = 4 << 20  # of a supervisor of 45 MiB


class HeldRequest(Struct, frozen=True):
    place: Ask | RequestTopic
    message: Incoming
    receipt: Receipt
    since_s: float

    @property
    def client(self) -> str:
        return self.place.client

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.message.payload)


class Held:
    """Clients take turns, each in its own order; those of a lost connection are the broker's again."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[HeldRequest]] = {}  # by client; the first one has the next turn
        self._count = 0
        self._bytes = 0
        self.left = False  # some did not fit: they come with the next connection

    def __len__(self) -> int:
        return self._count

    def put(self, one: HeldRequest) -> bool:
        """Keep ``one``, in place of the newest of whoever holds most; False when that is its own client."""
        if not self._fits(one):
            for gone in [other for other in self._all() if not other.receipt.connection.alive]:
                self.remove(gone)
        while not self._fits(one):
            self.left = True
            shares = {client: _share(waiting) for client, waiting in self._waiting.items()}
            most = max(shares, key=shares.__getitem__, default=one.client)
            if shares.get(most, 0.0) <= _share([*self._waiting.get(one.client, ()), one]):
                return False
            self.remove(self._waiting[most][-1])
        self._waiting.setdefault(one.client, deque()).append(one)
        self._count += 1
        self._bytes += one.size
        return True

    def take(self) -> HeldRequest | None:
        """The next of the client whose turn it is, on a connection that lives; None when there is none."""
        while self._waiting:
            client = next(iter(self._waiting))
            one = self._waiting[client][0]
            self.remove(one)
            if rest := self._waiting.pop(client, None):
                self._waiting[client] = rest
            if one.receipt.connection.alive:
                return one
        return None

    def of(self, client: str) -> list[HeldRequest]:
        """Those of one client that can be acknowledged, oldest first."""
        return [one for one in self._waiting.get(client, ()) if one.receipt.connection.alive]

    def remove(self, one: HeldRequest) -> None:
        waiting = self._waiting[one.client]
        waiting.remove(one)
        if not waiting:
            del self._waiting[one.client]
        self._count -= 1
        self._bytes -= one.size

    def clear(self) -> None:
        self._waiting.clear()
        self._count = self._bytes = 0

    def _fits(self, one: HeldRequest) -> bool:
        return self._count < MAX_COUNT and self._bytes + one.size <= MAX_BYTES

    def _all(self) -> list[HeldRequest]:
        return [one for waiting in self._waiting.values() for one in waiting]


def _share(waiting: Collection[HeldRequest]) -> float:
    """Of the room, in number or in bytes, whichever is more."""
    return max(len(waiting) / MAX_COUNT, sum(one.size for one in waiting) / MAX_BYTES)
