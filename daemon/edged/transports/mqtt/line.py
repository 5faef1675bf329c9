"""The line to the broker as requests see it: there or not, and answers that outlive a connection."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.transports.mqtt.connection import Connection

# An answer waits this long for a broker that went away. A QoS 1 request is delivered again after that
# and finds its answer in the memory of duplicates; a QoS 0 request never had a promise.
PATIENCE_S = 600.0


class Line:
    """Holds the one connection that is up, if any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._up = asyncio.Event()
        self.connection: Connection | None = None

    def raised(self, connection: Connection) -> None:
        self.connection = connection
        self._up.set()

    def dropped(self) -> None:
        self.connection = None
        self._up.clear()

    @property
    def congested(self) -> bool:
        """Nothing can be sent at this moment without queueing it here."""
        return self.connection is None or self.connection.congested

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish at QoS 0 if that is possible now."""
        return self.connection is not None and self.connection.send(topic, payload, retain=retain)

    async def deliver(self, topic: str, payload: bytes, *, correlation: bytes | None = None) -> str | None:
        """Publish at QoS 1 until a connection took it: "" then, or the broker's reason for refusing it.

        None when no connection took it within PATIENCE_S.
        """
        deadline_s = self._clock() + PATIENCE_S
        while (left_s := deadline_s - self._clock()) > 0:
            try:
                await asyncio.wait_for(self._up.wait(), left_s)
            except TimeoutError:
                return None
            connection = self.connection
            if connection is None:
                continue
            outcome = await connection.deliver(topic, payload, correlation=correlation)
            if outcome is not None:
                return outcome
            if self.connection is connection:
                self.dropped()  # its owner hears of it a moment later
        return None

    def limit_bytes(self, topic: str, correlation: bytes | None) -> int | None:
        """The largest payload the broker takes on ``topic``; None when it names no limit."""
        if self.connection is None or self.connection.max_packet_bytes is None:
            return None
        # Fixed header 5, topic length 2, packet id 2, property length 2 + correlation data 3.
        around = 14 + len(topic.encode()) + len(correlation or b"")
        return max(0, self.connection.max_packet_bytes - around)
