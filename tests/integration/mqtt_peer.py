"""A device on the other side of the broker: a real paho client in its own thread."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 15.0


async def until(condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of ``condition``; fails the test at the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"did not happen in {deadline_s} s: {what or condition}")


class Peer:
    """Subscribes to everything under ``filters`` and keeps what it hears, in order."""

    def __init__(
        self,
        port: int,
        *filters: str,
        version: str = "5",
        client_id: str = "",
        user: tuple[str, str] | None = None,
    ) -> None:
        self.heard: list[paho.MQTTMessage] = []
        self._up = threading.Event()
        self._port = port
        self._five = version == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._five else MQTTProtocolVersion.MQTTv311,
        )
        if user:
            self._client.username_pw_set(*user)
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.on_message = lambda _c, _u, message: self.heard.append(message)
        self._client.on_connect = lambda client, *_: (
            client.subscribe([(one, 1) for one in filters])
            if not self._five
            else [client.subscribe(one, 1) for one in filters]
        )
        self._client.on_subscribe = lambda *_: self._up.set()

    async def __aenter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        await until(self._up.is_set, "the peer subscribed")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def send(
        self, topic: str, payload: Any, *, qos: int = 1, retain: bool = False, **properties: Any
    ) -> None:
        """``properties`` are MQTT 5 names: ResponseTopic, CorrelationData, MessageExpiryInterval."""
        found = None
        if properties:
            found = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(found, name, value)
        body = json.dumps(payload) if isinstance(payload, dict) else payload
        self._client.publish(topic, body, qos=qos, retain=retain, properties=found)

    def on(self, topic: str) -> list[paho.MQTTMessage]:
        return [message for message in tuple(self.heard) if message.topic == topic]

    def texts(self, topic: str) -> list[str]:
        return [message.payload.decode() for message in self.on(topic)]

    def documents(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in self.on(topic)]

    async def wait(self, topic: str, count: int = 1) -> list[dict[str, Any]]:
        """At least ``count`` JSON messages of ``topic``."""
        await until(lambda: len(self.on(topic)) >= count, f"{count} messages on {topic}")
        return self.documents(topic)
