"""Requests that a broker delivered beyond what the box takes: they wait here, unacknowledged (pure).

A broker that knows no receive maximum (3.1.1), or does not keep to it, sends more. Without their
acknowledgement it stops at its own limit, and so back-pressure reaches whoever publishes. That of mosquitto
2.0.11 grows by one with each acknowledgement.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from edged.transports.mqtt.exchange import Receipt
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.topics import Ask, RequestTopic

MAX_COUNT = 1024  # mosquitto begins with 20 by default, EMQX sends 32
MAX_BYTES = 4 << 20  # of a supervisor of 45 MiB


class HeldRequest(Struct, frozen=True):
    place: Ask | RequestTopic
    message: Incoming
    receipt: Receipt
    since_s: float


class Held:
    """First come, first taken; those of a connection that is gone are the broker's again."""

    def __init__(self) -> None:
        self._waiting: deque[HeldRequest] = deque()
        self._bytes = 0
        self.left = False  # some did not fit: they come with the next connection

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, one: HeldRequest) -> bool:
        """Keep ``one``; False when there is no room for it."""
        size = len(one.message.payload)
        if len(self._waiting) >= MAX_COUNT or self._bytes + size > MAX_BYTES:
            self.left = True
            return False
        self._waiting.append(one)
        self._bytes += size
        return True

    def take(self) -> HeldRequest | None:
        """The oldest whose connection lives; None when there is none."""
        while self._waiting:
            one = self._waiting.popleft()
            self._bytes -= len(one.message.payload)
            if one.receipt.connection.alive:
                return one
        return None

    def of(self, client: str) -> list[HeldRequest]:
        """Those of one client, oldest first."""
        return [one for one in self._waiting if getattr(one.place, "client", "ask") == client]

    def remove(self, one: HeldRequest) -> None:
        self._waiting.remove(one)
        self._bytes -= len(one.message.payload)

    def clear(self) -> None:
        self._waiting.clear()
        self._bytes = 0
