"""A connection of a pool: leaves subscriptions, hands requests on, and can end its session for good."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.transports.mqtt.connection import GOODBYE_TIMEOUT_S, PUBACK_TIMEOUT_S, Connection
from edged.transports.mqtt.line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edged.transports.mqtt.endpoint import Endpoint
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.outbox import Parcel

NO_SUBSCRIBERS = 0x10  # MQTT 5, reason of a PUBACK


class OneTry(Line):
    """Delivers now or not at all.

    A request without an answer stays unacknowledged, and the broker gives it to this box or its heir again;
    an answer that waited for a connection could come after the heir's.
    """

    async def deliver(
        self,
        parcel: Parcel,  # noqa: ARG002 - nothing waits
        topic: str,
        payload: bytes,
        *,
        correlation: bytes | None = None,
    ) -> str | None:
        connection = self.connection
        return (
            None if connection is None else await connection.deliver(topic, payload, correlation=correlation)
        )


class PoolConnection(Connection):
    """Speaks MQTT 5.

    ``requests`` counts what came at QoS 1, ``unacknowledged`` what of it the broker would deliver again,
    ``last_heard_s`` is when the last of it came.
    """

    def __init__(self, endpoint: Endpoint, on_message: Callable[[Connection, Incoming], None]) -> None:
        super().__init__(endpoint, self._heard)
        self._hear = on_message
        self._unsubacks: dict[int, asyncio.Future[None]] = {}
        self._deaf: set[int] = set()  # ids of messages that nobody is subscribed to
        self.requests = 0
        self.unacknowledged = 0
        self.last_heard_s = self._loop.time()
        self._client.on_unsubscribe = self._unsubscribed

    async def unsubscribe(self, filters: Iterable[str]) -> None:
        """Returns when the broker has confirmed, or the connection is gone."""
        _, mid = self._client.unsubscribe(list(filters))
        if mid is None:
            return
        done = self._unsubacks[mid] = self._loop.create_future()
        await asyncio.wait({done, self.closed}, timeout=PUBACK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        self._unsubacks.pop(mid, None)
        if not done.done():
            self.abandon(f"the broker did not confirm the end of subscriptions in {PUBACK_TIMEOUT_S:.0f} s")

    async def hand_on(self, topic: str, message: Incoming, notes: list[tuple[str, str]]) -> bool | None:
        """Publish ``message`` on ``topic`` at QoS 1, with all that MQTT 5 says of it and our ``notes``.

        True when the broker keeps it for somebody; False when nobody is subscribed; None when the
        connection ended or the broker refused it.
        """
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = notes
        for name, value in (
            ("ResponseTopic", message.response_topic),
            ("CorrelationData", message.correlation),
            ("MessageExpiryInterval", message.expiry_s),
        ):
            if value is not None:
                setattr(properties, name, value)
        info = self._client.publish(topic, message.payload, qos=1, properties=properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return None
        answer: asyncio.Future[str] = self._loop.create_future()
        self._pubacks[info.mid] = answer
        await asyncio.wait(
            {answer, self.closed}, timeout=PUBACK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        self._pubacks.pop(info.mid, None)
        if not answer.done():
            self.abandon(f"the broker did not confirm a message in {PUBACK_TIMEOUT_S:.0f} s")
            return None
        if info.mid in self._deaf:
            self._deaf.discard(info.mid)
            return False
        self.note_refusal(topic, answer.result())
        return True if answer.result() == "" else None

    def acknowledge(self, mid: int) -> None:
        self.unacknowledged -= 1
        super().acknowledge(mid)

    async def leave(self) -> None:
        """DISCONNECT and have the broker forget the session."""
        properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        if self.alive:
            self._client.disconnect(properties=properties)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.closed), GOODBYE_TIMEOUT_S)
        self.abandon("left")

    def _heard(self, connection: Connection, message: Incoming) -> None:
        self.requests += bool(message.qos)
        self.unacknowledged += bool(message.qos)
        if message.qos:
            self.last_heard_s = self._loop.time()
        self._hear(connection, message)

    def _published(self, client: Any, user: Any, mid: int, reason: Any, properties: Any) -> None:
        if reason.value == NO_SUBSCRIBERS and mid in self._pubacks:
            self._deaf.add(mid)
        super()._published(client, user, mid, reason, properties)

    def _unsubscribed(self, _c: Any, _u: Any, mid: int, *_: Any) -> None:
        done = self._unsubacks.get(mid)
        if done is not None and not done.done():
            done.set_result(None)
