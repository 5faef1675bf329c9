"""The line to the broker as requests see it: there or not, and answers that outlive a connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.outbox import Outbox, Parcel


class Line:
    """Holds the one connection that is up, if any, and the answers that wait for one."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._up = asyncio.Event()
        self.connection: Connection | None = None

    def raised(self, connection: Connection) -> None:
        self.connection = connection
        self.outbox.broker(away=False)
        self._up.set()

    def dropped(self) -> None:
        self.connection = None
        self._up.clear()
        self.outbox.broker(away=True)

    @property
    def congested(self) -> bool:
        """Nothing can be sent at this moment without queueing it here."""
        return self.connection is None or self.connection.congested

    def send(self, topic: str, payload: bytes, *, correlation: bytes | None = None) -> bool:
        """Publish at QoS 0 if that is possible now."""
        return self.connection is not None and self.connection.send(topic, payload, correlation=correlation)

    async def deliver(
        self, parcel: Parcel, topic: str, payload: bytes, *, correlation: bytes | None = None
    ) -> str | None:
        """Publish at QoS 1 until a connection took it: "" then, or the broker's reason for refusing it.

        None when ``parcel``, which ``payload`` belongs to, was given up before that.
        """
        while await self._there(parcel):
            connection = self.connection
            if connection is None:
                continue
            outcome = await connection.deliver(topic, payload, correlation=correlation)
            if outcome is not None:
                return outcome
            if self.connection is connection:
                self.dropped()  # its owner hears of it a moment later
        return None

    async def _there(self, parcel: Parcel) -> bool:
        """Wait for a connection; False when the parcel is given up before there is one."""
        if not self._up.is_set() and not parcel.lost.done():
            up = asyncio.ensure_future(self._up.wait())
            events: set[asyncio.Future[Any]] = {up, parcel.lost}
            left_s = parcel.expires_s - self.outbox.now_s()
            try:
                await asyncio.wait(events, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
            if not self._up.is_set():
                self.outbox.expired(parcel)
        return not parcel.lost.done()

    def fitting(self, topic: str, limit_bytes: int, correlation: bytes | None = None) -> int:
        """``limit_bytes`` of payload, or what the broker takes on ``topic`` when that is less."""
        if self.connection is None or self.connection.max_packet_bytes is None:
            return limit_bytes
        # Fixed header 5, topic length 2, packet id 2, property length 2 + correlation data 3.
        around = 14 + len(topic.encode()) + len(correlation or b"")
        return min(limit_bytes, max(0, self.connection.max_packet_bytes - around))
