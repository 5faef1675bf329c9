"""What a broker refuses, bounds or asks of a box, and what the box makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import ROOT, answering, serving
from tests.integration.test_mqtt_faults import answered, behind_a_proxy

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

READY = Path(__file__).parents[2] / "profiles/mosquitto/edged.conf"
TOO_MUCH = b"x" * (17 << 20)
RESPONSE = f"{ROOT}/response/me/chat"


def test_an_answer_that_is_refused_for_a_passing_reason_is_published_again_before_it_is_acknowledged(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("edged.transports.mqtt.connection.PAUSES_S", (0.0, 0.0, 0.0))

    async def scenario(broker):
        async with behind_a_proxy(broker) as (service, mqtt, proxy, peer):
            proxy.pubacks = [0x97, 0x83]
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x"})
            answers = await peer.wait(RESPONSE, 3)
            assert [one["ok"] for one in answers] == [True] * 3
            await until(lambda: proxy.unacknowledged == 0, "the acknowledgement")
            assert not proxy.pubacks
            assert len(service.seen) == 1
            assert mqtt.conditions() == []

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_what_the_broker_does_not_let_the_box_publish_is_a_condition_that_names_the_topic(tmp_path, caplog):
    rules = tmp_path / "acl"
    rules.write_text(f"topic deny {ROOT}/info\ntopic readwrite #\n")
    rules.chmod(0o644)

    async def scenario(broker):
        async with answering(broker) as (_, mqtt, peer):
            found = await until(mqtt.conditions, "a condition")
            assert [one.code for one in found] == ["mqtt_refused"]
            assert f"publishes on {ROOT}/info (Not authorized)" in found[0].message
            assert "ACL" in found[0].hint
            await answered(peer, "1")

    with Broker(tmp_path, "allow_anonymous true", f"acl_file {rules}") as broker:
        asyncio.run(scenario(broker))
    assert f"refused what was published on {ROOT}/info" in caplog.text


def test_a_message_beyond_every_limit_ends_the_connection_and_the_condition_names_the_setting(tmp_path):
    async def scenario(broker):
        async with answering(broker, version="3.1.1") as (_, mqtt, peer):
            mqtt._backoff._uniform = lambda _low, _high: 30.0  # stay down: what counts is what is said
            peer.send(f"{ROOT}/request/me/chat", TOO_MUCH)
            condition = await until(mqtt.condition, "a condition")
            assert "a message of 17825821 bytes came" in condition.message
            assert "message_size_limit 16777216" in condition.hint
        async with answering(broker, version="5") as (_, mqtt, peer):
            await answered(peer, "1")
            assert mqtt.condition() is None
        async with answering(broker, version="3.1.1") as (_, mqtt, peer):
            await answered(peer, "2")
            assert mqtt.condition() is None, "version 5 rid the session of it"

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


@pytest.mark.parametrize(("version", "largest"), [("3.1.1", 1 << 24), ("5", (1 << 24) - 64)])
def test_with_the_limit_of_the_ready_configuration_no_message_knocks_a_box_out(tmp_path, version, largest):
    async def scenario(broker):
        async with answering(broker, version=version) as (_, mqtt, peer):
            connection = mqtt._line.connection
            async with Peer(broker.port, "none", version="3.1.1") as sender:
                sender.send(f"{ROOT}/request/me/chat", TOO_MUCH)
                await until(lambda: "PUBLISH" in broker.log.read_text())
            await answered(peer, "1")
            peer.send(f"{ROOT}/request/me/chat", TOO_MUCH[:largest])
            assert (await peer.wait(RESPONSE, 2))[1]["error"]["code"] == "too_large"
            assert mqtt._line.connection is connection

    (limit,) = [line for line in READY.read_text().splitlines() if line.startswith("message_size_limit")]
    with Broker(tmp_path, "allow_anonymous true", limit) as broker:
        asyncio.run(scenario(broker))


def test_the_keep_alive_that_the_broker_names_is_kept(tmp_path):
    async def scenario(broker):
        async with answering(broker, keepalive_s=600) as (_, mqtt, _):
            tick = mqtt._line.connection._tick
            assert tick.when() - asyncio.get_running_loop().time() <= 12 / 4

    with Broker(tmp_path, "allow_anonymous true", "max_keepalive 12") as broker:
        asyncio.run(scenario(broker))


def test_a_broker_that_was_silent_once_is_asked_in_version_5_again(tmp_path):
    async def scenario(broker):
        attempts = []

        async def pump(reader, writer):
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
            writer.close()

        async def accept(reader, writer):
            attempts.append(await reader.read(65536))
            if len(attempts) == 1:  # it has just started
                writer.close()
                return
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", broker.port)
            inner_writer.write(attempts[-1])
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            async with serving(server.sockets[0].getsockname()[1], ScriptedService()) as mqtt:
                assert mqtt._line.connection.version == "3.1.1"
                mqtt._line.connection.abandon("a cable")
                await until(lambda: mqtt.connected and mqtt._line.connection.version == "5", "version 5")
            assert [one[8] for one in attempts] == [5, 4, 5]  # the level in the CONNECT

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))
