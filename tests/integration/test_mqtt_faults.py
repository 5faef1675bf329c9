"""The network between a box and its broker fails in every way: what observers see, what is answered."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from edged.api.config import Mqtt
from edged.transports.mqtt import MqttTransport
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import ROOT, VERSIONS, serving
from tests.kit.fault_proxy import FaultProxy

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]


@pytest.fixture
def broker(tmp_path):
    with Broker(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def behind_a_proxy(broker, service=None, **config):
    """(service, transport, proxy, an observer on the broker itself), all connected."""
    service = service or ScriptedService()
    with FaultProxy(broker.port) as proxy:
        async with (
            Peer(broker.port, "#") as observer,
            serving(proxy.port, service, **config) as mqtt,
        ):
            await until(lambda: observer.texts(f"{ROOT}/status")[-1:] == ["online"], "online")
            yield service, mqtt, proxy, observer


async def answered(peer, name):
    """``name`` is asked and answered."""
    peer.send(f"{ROOT}/request/me/chat", {"id": name, "prompt": name})
    await until(
        lambda: any(one["id"] == name and one["ok"] for one in peer.documents(f"{ROOT}/response/me/chat")),
        f"the answer to {name}",
    )


async def refused_for_a_while(proxy, mqtt):
    proxy.refuse()
    await until(lambda: mqtt.condition() and "refused" in mqtt.condition().message, "told as a condition")
    proxy.listen()


async def half_open(proxy, mqtt):
    proxy.half_open()
    proxy.cut()
    await until(lambda: mqtt.condition() and "no CONNACK" in mqtt.condition().message, "told as a condition")
    proxy.resume()


async def reset_in_the_connack(proxy, mqtt):
    proxy.connack = "reset"
    proxy.cut()
    await until(lambda: mqtt.condition() and "did not answer" in mqtt.condition().message, "a condition")
    proxy.connack = ""


async def without_a_session(proxy, mqtt):
    proxy.connack = "no session"
    proxy.cut()
    await until(lambda: not mqtt.connected, "cut off")


async def stalled(proxy, mqtt):
    proxy.stall()
    await until(lambda: not mqtt.connected, "the silence was noticed", 30)
    proxy.cut()
    proxy.resume()


FAULTS = [refused_for_a_while, half_open, reset_in_the_connack, without_a_session, stalled]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_after_each_fault_the_box_is_back_with_its_subscriptions_and_topics(
    broker, fault, version, monkeypatch
):
    """Observers see online, offline by the will, online; and nothing else."""
    monkeypatch.setattr("edged.transports.mqtt.connection.CONNACK_TIMEOUT_S", 0.5)

    async def scenario():
        async with behind_a_proxy(broker, keepalive_s=5, version=version) as (_, mqtt, proxy, observer):
            await answered(observer, "before")
            await fault(proxy, mqtt)
            await until(lambda: mqtt.connected and mqtt.condition() is None, "connected again", 30)
            await until(lambda: observer.texts(f"{ROOT}/status")[-1] == "online", "online again")
            await answered(observer, "after")
            async with Peer(broker.port, "#") as late:
                await until(lambda: late.texts(f"{ROOT}/status") == ["online"], "retained as it is")
                await until(lambda: late.on(f"{ROOT}/info"), "info is retained")
            said = observer.texts(f"{ROOT}/status")
            assert said[0] == "online"
            # A connection that dies before its CONNACK still had its will accepted: offline may come twice.
            assert [one for n, one in enumerate(said) if n == 0 or said[n - 1] != one][:3] == [
                "online",
                "offline",
                "online",
            ]
            assert len(observer.documents(f"{ROOT}/response/me/chat")) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_delivered_twice_is_computed_once(broker, version):
    async def scenario():
        async with behind_a_proxy(broker, version=version) as (service, mqtt, proxy, observer):
            proxy.duplicates = True
            for number in range(5):
                await answered(observer, str(number))
            await until(lambda: mqtt._desk.busy == 0)
            assert [request.id for request in service.seen] == list("01234")
            assert {one["text"] for one in observer.documents(f"{ROOT}/response/me/chat")} == {
                f"echo: {number}" for number in range(5)
            }

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_question_that_is_delivered_twice_is_computed_once(broker, version):
    async def scenario():
        async with behind_a_proxy(broker, version=version) as (service, mqtt, proxy, observer):
            proxy.duplicates = True
            observer.send(f"{ROOT}/ask", "hello")
            await until(lambda: observer.texts(f"{ROOT}/answer"), "an answer")
            await until(lambda: mqtt._desk.busy == 0)
            assert len(service.seen) == 1
            assert set(observer.texts(f"{ROOT}/answer")) == {"echo: hello"}

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def away_with_answers(broker, count, *, answer="x" * 200, qos=0, **config):
    """The broker is gone from the box's sight, and so many answers wait for it."""
    service = ScriptedService(capacity=count)
    service.answer = answer
    service.gate.clear()
    async with behind_a_proxy(broker, service, **config) as (_, mqtt, proxy, observer):
        for number in range(count):
            observer.send(f"{ROOT}/request/me/chat", {"id": str(number), "prompt": "x"}, qos=qos)
            await until(lambda number=number: len(service.running) == number + 1)
        proxy.refuse()
        await until(lambda: not mqtt.connected)
        service.gate.set()
        await until(lambda: not service.running)
        yield service, mqtt, proxy, observer


def test_what_fits_waits_and_goes_out_when_the_broker_is_back(broker):
    async def scenario():
        async with away_with_answers(broker, 6) as (_, mqtt, proxy, observer):
            assert len(mqtt._line.outbox) == 6
            assert observer.documents(f"{ROOT}/response/me/chat") == []
            proxy.listen()
            answers = await observer.wait(f"{ROOT}/response/me/chat", 6)
            assert {one["id"] for one in answers} == set("012345")
            await until(lambda: not len(mqtt._line.outbox))
            assert mqtt.conditions() == []

    asyncio.run(scenario())


@pytest.mark.parametrize("bound", [{"outbox": 2}, {"outbox_kib": 1}])
def test_beyond_its_bounds_the_oldest_is_given_up_counted_and_told(broker, bound, caplog):
    async def scenario():
        async with away_with_answers(broker, 6, answer="x" * 300, **bound) as (
            _, mqtt, proxy, observer,
        ):  # fmt: skip
            outbox = mqtt._line.outbox
            await until(lambda: outbox.without_room == 4, "four were given up")
            assert len(outbox) == 2
            assert outbox.size_bytes <= 1024
            (lost,) = [one for one in mqtt.conditions() if one.code == "mqtt_answers_lost"]
            assert lost.message.startswith("4 answers were given up")
            assert "mqtt.outbox" in lost.hint
            proxy.listen()
            answers = await observer.wait(f"{ROOT}/response/me/chat", 2)
            assert [one["id"] for one in answers] == ["4", "5"]

    asyncio.run(scenario())
    assert caplog.text.count("no broker took the answer") == 4


def test_what_waited_too_long_is_given_up(broker):
    async def scenario():
        async with away_with_answers(broker, 3, outbox_ttl_s=0.2) as (_, mqtt, proxy, observer):
            await until(lambda: mqtt._line.outbox.too_old == 3)
            assert "3 waited longer" in mqtt.conditions()[-1].message
            proxy.listen()
            await answered(observer, "next")
            assert [one["id"] for one in observer.documents(f"{ROOT}/response/me/chat")] == ["next"]

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_given_up_answer_to_a_qos_1_request_comes_with_the_redelivery(broker, version):
    async def scenario():
        config = {"outbox": 1, "version": version}
        async with away_with_answers(broker, 4, qos=1, **config) as (service, mqtt, proxy, observer):
            await until(lambda: mqtt._line.outbox.without_room == 3)
            proxy.listen()
            answers = await observer.wait(f"{ROOT}/response/me/chat", 4)
            assert {one["id"] for one in answers} == set("0123")
            assert len(service.seen) == 4, "nothing is computed again"

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def more_than_fits(broker, count=8, **config):
    """A box of capacity 2 on 3.1.1, which has two requests in hand and holds the rest unacknowledged."""
    service = ScriptedService(capacity=2)
    service.gate.clear()
    async with behind_a_proxy(broker, service, version="3.1.1", **config) as (_, mqtt, proxy, observer):
        for number in range(count):
            observer.send(f"{ROOT}/request/me/chat", {"id": str(number), "prompt": "x", "ttl_s": 30})
        await until(lambda: proxy.unacknowledged == count)
        await until(lambda: len(service.running) == 2)
        yield service, mqtt, proxy, observer


def test_requests_beyond_the_capacity_wait_unacknowledged_and_are_answered_in_turn(broker):
    async def scenario():
        async with more_than_fits(broker) as (service, mqtt, proxy, observer):
            assert len(mqtt._desk._held) == 6
            assert not observer.on(f"{ROOT}/response/me/chat")
            service.gate.set()
            answers = await observer.wait(f"{ROOT}/response/me/chat", 8)
            assert [one["id"] for one in answers] == list("01234567")
            assert all(one["ok"] for one in answers)
            assert all(request.ttl_s < 30 for request in service.seen[2:]), "the wait counts"
            await until(lambda: proxy.unacknowledged == 0)

    asyncio.run(scenario())


def test_a_request_that_waits_unacknowledged_can_be_cancelled(broker):
    async def scenario():
        async with more_than_fits(broker) as (service, _, _, observer):
            observer.send(f"{ROOT}/cancel/me", "5")
            (cancelled,) = await observer.wait(f"{ROOT}/response/me/chat")
            assert (cancelled["id"], cancelled["error"]["code"]) == ("5", "cancelled")
            service.gate.set()
            await observer.wait(f"{ROOT}/response/me/chat", 8)
            assert [request.id for request in service.seen] == list("0123467")

    asyncio.run(scenario())


def test_what_has_no_room_here_is_left_with_the_broker_and_comes_with_the_next_connection(
    broker, monkeypatch
):
    monkeypatch.setattr("edged.transports.mqtt.held.MAX_COUNT", 3)

    async def scenario():
        async with more_than_fits(broker) as (service, mqtt, proxy, observer):
            assert len(mqtt._desk._held) == 3
            service.gate.set()
            answers = await observer.wait(f"{ROOT}/response/me/chat", 8)
            assert {one["id"] for one in answers} == set("01234567")
            assert all(one["ok"] for one in answers)
            assert proxy.attempts == 2

    asyncio.run(scenario())


def test_attempts_are_paced_with_full_jitter_up_to_a_minute(broker):
    """What `Backoff` promises is what the transport sleeps."""
    ceilings = []

    async def scenario():
        with FaultProxy(broker.port) as proxy:
            proxy.refuse()
            mqtt = MqttTransport(
                Mqtt(port=proxy.port), "box", ScriptedService(),
                uniform=lambda low, high: ceilings.append((low, high)) or 0.001 * high,
            )  # fmt: skip
            await mqtt.start()
            await until(lambda: len(ceilings) > 8)
            await mqtt.stop()

    asyncio.run(scenario())
    assert ceilings[:9] == [(0.0, float(min(60, 2**n))) for n in range(9)]
