"""A message from the broker, as bytes: what the desk makes of it is one answer in each place, or nothing.

Four lines say how it comes, the rest is the payload: the topic below the box's own; the response topic; the
correlation data; and QoS, retain, a second delivery, a pool, and the seconds until it expires.

    request/me/chat
    app/answers
    7
    1 0 0 0 60
    {"prompt": "hi"}
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from edged.api.config import Mqtt
from edged.transports.mqtt.codec import Body
from edged.transports.mqtt.desk import Desk
from edged.transports.mqtt.errors import WIRE_CODES
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.line import Line
from edged.transports.mqtt.outbox import Outbox
from edged.transports.mqtt.pool_needs import Needs
from edged.transports.mqtt.topics import Ask, RequestTopic, Topics
from tests.fuzz.log_lines import one_line_each
from tests.integration.scripted_service import ScriptedService

WORDS = (*Body.__struct_fields__, *Needs.__struct_fields__, "role", "user", "assistant", "content",
         "request/", "ask", "cancel/", "chat", "generate", "classify", "embed", "edged/box/")  # fmt: skip
CODES = {*WIRE_CODES.values()} - {"internal"}
LONGEST_MESSAGE_CHARS = 400
TOPICS = Topics("edged", "box")
LOOP = asyncio.new_event_loop()


class Wire:
    """Stands in for the connection: takes everything, and remembers it."""

    alive = True
    congested = False
    max_packet_bytes = None

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.acknowledged: list[int] = []

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None
    ) -> bool:
        assert not retain, "answers are never retained"
        self.sent.append((topic, payload))
        return True

    async def deliver(self, topic: str, payload: bytes, *, correlation: bytes | None = None) -> str:
        self.sent.append((topic, payload))
        return ""

    def acknowledge(self, mid: int) -> None:
        self.acknowledged.append(mid)


def split(data: bytes) -> int:
    """Where the payload begins."""
    return len(data) - len(_five(data)[4])


def check(data: bytes) -> bool:
    """Whether it was a request that was answered."""
    message, pool = _message(data)
    deliveries = 1 + message.dup
    wire = Wire()
    with one_line_each():
        LOOP.run_until_complete(_receive(message, deliveries, wire, "box" if pool else ""))
    assert wire.acknowledged == [message.mid] * deliveries * min(message.qos, 1)
    place = TOPICS.parse(message.topic)
    if message.retain or not isinstance(place, Ask | RequestTopic):
        assert wire.sent == []
        return False
    return _judge(place, message, wire.sent, deliveries)


def _message(data: bytes) -> tuple[Incoming, bool]:
    topic, response_topic, correlation, flags, payload = _five(data)
    numbers = [int(word) for word in flags.split()[:5] if word.isdigit() and len(word) < 10]
    qos, retain, dup, pool, expiry_s = [*numbers, *[0] * 5][:5]
    message = Incoming(
        topic=f"{TOPICS.root}/{topic.decode('utf-8', 'replace')}",
        payload=payload,
        mid=7,
        qos=min(qos, 2),
        retain=bool(retain),
        dup=bool(dup),
        response_topic=response_topic.decode("utf-8", "replace") or None,
        correlation=correlation or None,
        expiry_s=expiry_s if len(numbers) == 5 else None,
    )
    return message, bool(pool)


def _five(data: bytes) -> list[bytes]:
    return [*data.split(b"\n", 4), b"", b"", b"", b""][:5]


async def _receive(message: Incoming, deliveries: int, wire: Any, node: str) -> None:
    line = Line(Outbox(100, 1 << 20, 60.0, lambda: 0.0))
    line.raised(wire)
    config = Mqtt(enabled=True, reply_prefixes=("app",))
    desk = Desk(TOPICS, config, ScriptedService(), line, node=node, clock=lambda: 0.0)
    for _ in range(deliveries):
        desk.receive(wire, message)
    await desk.settle(5.0)
    assert not desk.busy


def _judge(
    place: Ask | RequestTopic, message: Incoming, sent: list[tuple[str, bytes]], deliveries: int
) -> bool:
    stream = TOPICS.stream(place.client) if isinstance(place, RequestTopic) else None
    own = TOPICS.answer if isinstance(place, Ask) else TOPICS.response(place.client, place.op)
    answers: dict[str, list[bytes]] = {}
    for topic, payload in sent:
        assert topic.isprintable()
        assert not set(topic) & set("+#"), topic
        if topic == stream:
            assert json.loads(payload)["kind"] in {"accepted", "delta", "reasoning", "done"}
            continue
        assert topic.startswith((own.rpartition("/")[0] if stream else own, "app/")) or topic == "app", topic
        answers.setdefault(topic, []).append(payload)
    assert answers, "nobody was answered"
    if isinstance(place, Ask):
        texts = [b"".join(parts).decode() for parts in answers.values()]
        assert all(texts)
        return not any(text.startswith("error: ") for text in texts)
    good = [_told(parts, deliveries) for parts in answers.values()]
    return all(good)


def _told(payloads: list[bytes], deliveries: int) -> bool:
    """Whether the messages on one topic are an answer; AssertionError when they are no refusal either."""
    parts = [json.loads(payload) for payload in payloads]
    ends = [one for one in parts if one["part"] == one["parts"]]
    assert 1 <= len(ends) <= deliveries, "one end for each delivery at most"
    assert [one["part"] for one in parts] == [n for end in ends for n in range(1, end["parts"] + 1)]
    for end in ends:
        if not end["ok"]:
            error = end["error"]
            assert error["code"] in CODES, error
            assert 0 < len(error["message"]) <= LONGEST_MESSAGE_CHARS
            assert error["message"].isprintable(), error
    return all(end["ok"] for end in ends)
