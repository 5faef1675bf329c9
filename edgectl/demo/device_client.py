"""What a device on the bus does: it knows the topics and JSON, and nothing of our code."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT = "demo"


class DeviceClient:
    """One connection to the broker; a context manager."""

    def __init__(self, host: str, port: int, base: str) -> None:
        self._base = base
        self._status = ""
        self._answer: dict[str, Any] | None = None
        self._on_text: Callable[[str], None] = lambda _text: None
        self._changed = threading.Condition()
        self._mqtt = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"{CLIENT}-{time.monotonic_ns()}")
        self._mqtt.on_connect = self._subscribe
        self._mqtt.on_message = self._receive
        self._address = (host, port)

    def __enter__(self) -> Self:
        self._mqtt.connect(*self._address)
        self._mqtt.loop_start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def wait_online(self, limit_s: float, check: Callable[[], None]) -> bool:
        """Until the box says it answers; ``check`` is called now and then, to raise when it never will."""
        return self._wait(lambda: self._status == "online", limit_s, check)

    def ask(self, question: str, on_text: Callable[[str], None], limit_s: float) -> dict[str, Any] | None:
        """The answer's JSON, its text given to ``on_text`` as it arrives; None when none came in time."""
        self._on_text = on_text
        self._answer = None
        request = {"id": f"q{time.monotonic_ns()}", "prompt": question, "stream": True, "max_tokens": 64}
        request["temperature"] = 0
        self._mqtt.publish(f"{self._base}/request/{CLIENT}/chat", json.dumps(request), qos=1)
        self._wait(lambda: self._answer is not None, limit_s, lambda: None)
        return self._answer

    def _subscribe(self, client: paho.Client, *_rest: object) -> None:
        for topic in ("status", f"response/{CLIENT}/chat", f"stream/{CLIENT}"):
            client.subscribe(f"{self._base}/{topic}", qos=1)

    def _receive(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        topic = message.topic.removeprefix(f"{self._base}/")
        with self._changed:
            if topic == "status":
                self._status = message.payload.decode()
            elif topic.startswith("stream/"):
                self._on_text(json.loads(message.payload).get("delta", ""))
            else:
                self._answer = json.loads(message.payload)
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], limit_s: float, check: Callable[[], None]) -> bool:
        deadline = time.monotonic() + limit_s
        with self._changed:
            while not condition():
                check()
                if time.monotonic() > deadline:
                    return False
                self._changed.wait(0.2)
        return True
