"""What the desk makes of each message, without a broker: a link that writes down what is published on it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json

import pytest

from edged.api.config import Mqtt
from edged.transports.mqtt import desk as desk_module
from edged.transports.mqtt.desk import Desk
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.line import Line
from edged.transports.mqtt.outbox import Outbox
from edged.transports.mqtt.topics import Topics
from tests.integration.mqtt_peer import until
from tests.integration.scripted_service import ScriptedService

ROOT = "edged/box"
_mids = itertools.count(1)


class Link:
    """A connection whose broker takes everything."""

    def __init__(self, max_packet_bytes=None):
        self.alive = True
        self.congested = False
        self.max_packet_bytes = max_packet_bytes
        self.published = []  # (topic, payload, correlation, QoS)
        self.acknowledged = []

    def send(self, topic, payload, *, correlation=None):
        self.published.append((topic, payload, correlation, 0))
        return True

    async def deliver(self, topic, payload, *, correlation=None):
        self.published.append((topic, payload, correlation, 1))
        return ""

    def acknowledge(self, mid):
        self.acknowledged.append(mid)

    def said(self, topic):
        return [json.loads(payload) for place, payload, *_ in self.published if place == topic]


def message(topic, payload, *, qos=1, dup=False, mid=None, **properties):
    body = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    number = next(_mids) if mid is None else mid
    return Incoming(
        topic=f"{ROOT}/{topic}", payload=body, mid=number, qos=qos, retain=False, dup=dup, **properties
    )


@contextlib.asynccontextmanager
async def at_a_desk(*, capacity=8, max_packet_bytes=None, node="", **config):
    service, link = ScriptedService(capacity=capacity), Link(max_packet_bytes)
    line = Line(Outbox(8, 1 << 20, 60.0, asyncio.get_running_loop().time))
    line.raised(link)
    config.setdefault("reply_prefixes", ("app",))
    desk = Desk(Topics("edged", "box"), Mqtt(**config), service, line, node=node)
    yield desk, service, link
    service.gate.set()
    desk.close()
    await desk.settle(5.0)


def test_two_devices_that_ask_with_the_same_correlation_data_both_get_their_answer():
    async def scenario():
        async with at_a_desk() as (desk, service, link):
            for question in (b"is it raining?", b"is it cold?", b"is it raining?"):
                where = f"{ROOT}/answer/{len(service.seen)}"
                desk.receive(link, message("ask", question, correlation=b"\x01", response_topic=where, mid=7))
                await until(lambda: not desk.busy)
            texts = sorted({payload for _, payload, *_ in link.published})
            assert texts == [b"echo: is it cold?", b"echo: is it raining?"]
            assert len({request.id for request in service.seen}) == 3

    asyncio.run(scenario())


def test_a_question_delivered_again_with_its_correlation_data_is_computed_once():
    async def scenario():
        async with at_a_desk() as (desk, service, link):
            for dup in (False, True):
                desk.receive(link, message("ask", b"hi", correlation=b"\x01", dup=dup))
                await until(lambda: not desk.busy)
            assert len(service.seen) == 1

    asyncio.run(scenario())


def test_two_requests_of_the_same_content_delivered_again_get_two_answers():
    """To a box that was restarted, and once more over another connection while it answers."""

    async def scenario():
        async with at_a_desk() as (desk, service, link):
            service.gate.clear()
            for mid in (1, 2):
                desk.receive(link, message("request/me/chat", {"prompt": "x"}, mid=mid, dup=True))
            await until(lambda: len(service.running) == 2, "both are computed")
            link.alive = False
            again = Link()
            desk._line.raised(again)
            for mid in (1, 2):
                desk.receive(again, message("request/me/chat", {"prompt": "x"}, mid=mid, dup=True))
            service.gate.set()
            await until(lambda: sorted(again.acknowledged) == [1, 2])
            assert len(service.seen) == 2
            assert len({one["id"] for one in again.said(f"{ROOT}/response/me/chat")}) == 2

    asyncio.run(scenario())


def test_a_request_cancelled_while_it_waits_is_answered_at_its_response_topic_with_its_correlation_data():
    async def scenario():
        async with at_a_desk(capacity=1) as (desk, service, link):
            service.gate.clear()
            desk.receive(link, message("request/me/chat", {"id": "1", "prompt": "x"}))
            await until(lambda: service.running)
            body = {"id": "2", "prompt": "x"}
            where = {"response_topic": "app/1", "correlation": b"\x02"}
            desk.receive(link, message("request/me/chat", body, mid=99, **where))
            desk.receive(link, message("cancel/me", b"2", qos=0))
            await until(lambda: 99 in link.acknowledged)
            told = {place: (json.loads(body)["error"]["code"], correlation)
                    for place, body, correlation, _ in link.published if b'"id":"2"' in body}  # fmt: skip
            assert told == dict.fromkeys(("app/1", f"{ROOT}/response/me/chat"), ("cancelled", b"\x02"))

    asyncio.run(scenario())


def test_a_request_cancelled_in_a_flood_is_acknowledged_behind_an_answer_at_qos_1(monkeypatch):
    monkeypatch.setattr(desk_module, "SPARE_EXCHANGES", 0)

    async def scenario():
        async with at_a_desk(capacity=1) as (desk, service, link):
            service.gate.clear()
            desk.receive(link, message("request/me/chat", {"id": "1", "prompt": "x"}))
            desk.receive(link, message("request/me/chat", {"id": "2", "prompt": "x"}, mid=99))
            assert desk._full()
            desk.receive(link, message("cancel/me", b"2", qos=0))
            await until(lambda: 99 in link.acknowledged)
            assert [qos for _, body, _, qos in link.published if b"cancelled" in body] == [1]

    asyncio.run(scenario())


def test_what_is_shed_at_qos_0_hears_busy_with_its_correlation_data(monkeypatch):
    monkeypatch.setattr(desk_module, "SPARE_EXCHANGES", 0)

    async def scenario():
        async with at_a_desk(capacity=1) as (desk, service, link):
            service.gate.clear()
            desk.receive(link, message("request/me/chat", {"id": "1", "prompt": "x"}))
            where = {"response_topic": "app/1", "correlation": b"\x02"}
            desk.receive(link, message("request/me/chat", {"id": "2", "prompt": "x"}, qos=0, **where))
            told = [(place, correlation) for place, body, correlation, _ in link.published if b"busy" in body]
            assert told == [(f"{ROOT}/response/me/chat", b"\x02"), ("app/1", b"\x02")]

    asyncio.run(scenario())


def test_the_time_that_a_request_waited_elsewhere_counts():
    async def scenario():
        async with at_a_desk() as (desk, service, link):
            desk.receive(link, message("request/me/chat", {"id": "1", "prompt": "x", "ttl_s": 30}), 10.0)
            desk.receive(link, message("request/me/chat", {"id": "2", "prompt": "x", "ttl_s": 9}), 10.0)
            await until(lambda: not desk.busy)
            assert [request.ttl_s for request in service.seen] == [20.0]
            failed = [one for one in link.said(f"{ROOT}/response/me/chat") if not one["ok"]]
            assert [(one["id"], one["error"]["code"]) for one in failed] == [("2", "expired")]

    asyncio.run(scenario())


def test_a_request_that_waits_here_too_is_as_old_as_it_was_when_it_came():
    async def scenario():
        async with at_a_desk(capacity=1) as (desk, service, link):
            service.gate.clear()
            desk.receive(link, message("request/me/chat", {"id": "1", "prompt": "x"}))
            desk.receive(link, message("request/me/chat", {"id": "2", "prompt": "x", "ttl_s": 30}), 10.0)
            service.gate.set()
            await until(lambda: len(link.acknowledged) == 2)
            assert 19 < service.seen[1].ttl_s <= 20

    asyncio.run(scenario())


@pytest.mark.parametrize("node", ["", "n" * 64])
def test_a_device_with_little_room_hears_of_every_error(node):
    async def scenario():
        async with at_a_desk(node=node) as (desk, service, link):
            service.refusal = desk_module.Busy("the queue is full", retry_after_s=600.0)
            desk.receive(link, message("request/me/chat", {"id": "x" * 64, "prompt": "x", "max_bytes": 160}))
            await until(lambda: link.acknowledged)
            (said,) = link.said(f"{ROOT}/response/me/chat")
            assert said["error"]["code"] == "busy"
            assert said["id"] == "x" * 64
            assert len(link.published[-1][1]) <= 160

    asyncio.run(scenario())


def test_no_piece_of_a_stream_is_larger_than_the_broker_takes():
    async def scenario():
        async with at_a_desk(max_packet_bytes=300) as (desk, service, link):
            service.answer = "a long answer " * 100
            link.congested = True  # so that the text gathers
            desk.receive(link, message("request/me/chat", {"id": "1", "prompt": "x", "stream": True}))
            await until(lambda: link.acknowledged)
            pieces = [body for place, body, *_ in link.published if place == f"{ROOT}/stream/me"]
            assert max(map(len, pieces)) <= 300
            assert "".join(json.loads(one).get("delta", "") for one in pieces) == service.answer

    asyncio.run(scenario())


def test_nobody_is_called_ask_but_who_asks_in_plain_text():
    topics = Topics("edged", "box")
    assert topics.parse(f"{ROOT}/request/ask/chat") is None
    assert topics.parse(f"{ROOT}/cancel/ask") is None
