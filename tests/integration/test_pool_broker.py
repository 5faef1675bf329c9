"""What a pool relies on in the broker, seen on the mosquitto at hand; docs/scaling.md has the conclusions."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from edged.transports.mqtt.endpoint import Endpoint
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.pool_connection import PoolConnection
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

SHARED = ("$share/edged/task/+", 1)
WORK = "task/one"
FEW, MANY = 3, 1000


@pytest.fixture
def broker(tmp_path):
    with Broker(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def client(broker, name, *, receive_maximum=MANY):
    """A connection with a persistent session, and what it has heard and not acknowledged."""
    heard: list[Incoming] = []
    endpoint = Endpoint(
        host="127.0.0.1", port=broker.port, version="5", client_id=name, keepalive_s=30,
        will_topic=f"gone/{name}", will_payload=b"offline", receive_maximum=receive_maximum,
        max_packet_bytes=1 << 20,
    )  # fmt: skip
    connection = PoolConnection(endpoint, lambda _, message: heard.append(message))
    await connection.open()
    try:
        yield connection, heard
    finally:
        connection.abandon("the test ends")


def publish(peer, count):
    for number in range(count):
        peer.send(WORK, str(number))


def numbers(heard):
    return {int(message.payload) for message in heard}


def test_it_deals_in_turn_whatever_a_client_has_to_do(broker):
    """So a box that is full must hand on what it was dealt."""

    async def scenario():
        async with (
            client(broker, "full", receive_maximum=FEW) as (full, at_full),
            client(broker, "idle") as (idle, at_idle),
            Peer(broker.port, "none") as peer,
        ):
            await full.subscribe([SHARED])
            await idle.subscribe([SHARED])
            publish(peer, 40)
            await until(lambda: len(at_idle) == 20)
            assert len(at_full) == FEW, "the rest waits in the session of the client that is full"
            for message in at_idle:
                idle.acknowledge(message.mid)
            while len(at_full) < 20:
                seen = len(at_full)
                for message in at_full[full.unacknowledged and -full.unacknowledged :]:
                    full.acknowledge(message.mid)
                await until(lambda n=seen: len(at_full) > n)
            assert len(at_idle) == 20
            assert numbers(at_full) | numbers(at_idle) == set(range(40))

    asyncio.run(scenario())


def test_a_session_keeps_its_share_for_whoever_connects_as_its_client(broker):
    """So the heir of a box connects under its client id, and unsubscribes first."""

    async def scenario():
        async with client(broker, "other") as (other, at_other), Peer(broker.port, "gone/+") as peer:
            await other.subscribe([SHARED])
            async with client(broker, "box", receive_maximum=FEW) as (box, at_box):
                await box.subscribe([SHARED])
                publish(peer, 20)
                await until(lambda: len(at_box) == FEW and len(at_other) == 10)
            await until(lambda: peer.texts("gone/box") == ["offline"])
            publish(peer, 20)
            await until(lambda: len(at_other) == 20, "an absent session is dealt its share, too")
            async with client(broker, "box") as (heir, inherited):
                await heir.unsubscribe([SHARED[0]])
                await until(lambda: len(inherited) == 20)
                assert sum(message.dup for message in inherited) == FEW
                publish(peer, 10)
                await until(lambda: len(at_other) == 30, "what comes later goes to the others alone")
                assert len(inherited) == 20
                async with client(broker, "box") as (_, back):
                    await until(lambda: not heir.alive, "who comes back takes the session back")
                    await until(lambda: len(back) == 20)

    asyncio.run(scenario())


def test_a_session_that_ends_takes_its_messages_with_it(broker):
    """So a box leaves its session only when nothing in it is unacknowledged (mosquitto issue 2662)."""

    async def scenario():
        async with client(broker, "other") as (other, at_other), Peer(broker.port, "none") as peer:
            await other.subscribe([SHARED])
            async with client(broker, "box") as (box, at_box):
                await box.subscribe([SHARED])
                publish(peer, 20)
                await until(lambda: len(at_box) == len(at_other) == 10)
                await box.leave()
            publish(peer, 1)
            await until(lambda: len(at_other) == 11)
            async with client(broker, "box") as (_, found):
                publish(peer, 1)
                await until(lambda: len(at_other) == 12)
                assert found == []

    asyncio.run(scenario())


def test_a_publisher_hears_whether_anybody_is_subscribed_unless_somebody_listens_to_everything(broker):
    """So a request goes into the session of one box: whoever watches would look like one that takes it."""

    async def scenario():
        message = Incoming(topic=WORK, payload=b"7", mid=1, qos=1, retain=False, dup=False, correlation=b"c")
        async with client(broker, "giver") as (giver, _), client(broker, "taker") as (taker, taken):
            assert await giver.hand_on(WORK, message, [("hops", "1")]) is False
            async with Peer(broker.port, "#"):
                assert await giver.hand_on(WORK, message, [("hops", "1")]) is True
            assert not taken
            await taker.subscribe([SHARED])
            assert await giver.hand_on(WORK, message, [("hops", "1")]) is True
            await until(lambda: taken)
            assert (taken[0].payload, taken[0].correlation, taken[0].user) == (b"7", b"c", (("hops", "1"),))
            await taker.unsubscribe([SHARED[0]])
            assert await giver.hand_on(WORK, message, []) is False

    asyncio.run(scenario())


def test_devices_that_speak_311_share_too(broker):
    async def scenario():
        async with (
            Peer(broker.port, SHARED[0], version="3.1.1", client_id="one") as one,
            Peer(broker.port, SHARED[0], version="3.1.1", client_id="two") as two,
        ):
            publish(one, 10)
            await until(lambda: len(one.heard) == len(two.heard) == 5)

    asyncio.run(scenario())
