"""The same over MQTT: one connection, one streamed chat at a time, and when each piece of it arrived."""

from __future__ import annotations

import json
import queue
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho

from tests.bench.errors import BenchError
from tests.bench.http_client import LIMIT_S, Stream

if TYPE_CHECKING:
    from typing import Self

CLIENT = "bench"


class MqttClient:
    """Talks to edged ``node`` over the broker at loopback ``port``; a context manager."""

    def __init__(self, port: int, node: str) -> None:
        self._port = port
        self._box = f"edged/{node}"
        self._arrived: queue.Queue[tuple[float, str, bytes]] = queue.Queue()
        self._count = 0
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=CLIENT)
        self._paho.on_message = self._heard
        self._paho.on_subscribe = lambda *_: self._arrived.put((time.monotonic(), "", b""))

    def __enter__(self) -> Self:
        self._paho.connect("127.0.0.1", self._port)
        self._paho.loop_start()
        self._paho.subscribe(
            [(f"{self._box}/stream/{CLIENT}", 0), (f"{self._box}/response/{CLIENT}/chat", 1)]
        )
        self._arrived.get(timeout=LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()

    def chat(self, fields: dict[str, Any]) -> Stream:
        """One streamed answer. Raises BenchError."""
        self._count += 1
        payload = json.dumps({"id": str(self._count), "stream": True, "temperature": 0, **fields})
        stream = Stream(sent_s=time.monotonic())
        self._paho.publish(f"{self._box}/request/{CLIENT}/chat", payload, qos=1)
        while True:
            now, topic, data = self._arrived.get(timeout=LIMIT_S)
            message = json.loads(data)
            if message.get("id") != str(self._count):
                continue
            if "/response/" in topic:
                return _ended(stream, message, now)
            if message.get("delta"):
                stream.arrivals_s.append(now)
                stream.text += message["delta"]

    def _heard(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self._arrived.put((time.monotonic(), message.topic, message.payload))


def _ended(stream: Stream, answer: dict[str, Any], now: float) -> Stream:
    if not answer["ok"]:
        raise BenchError(f"edged answered over MQTT: {answer['error']}")
    stream.ended_s = now
    stream.prompt_tokens = answer["usage"]["prompt_tokens"]
    stream.completion_tokens = answer["usage"]["completion_tokens"]
    stream.cached_tokens = answer["usage"]["cached_tokens"]
    if not stream.arrivals_s:
        raise BenchError("edged streamed nothing over MQTT")
    return stream
