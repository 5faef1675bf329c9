"""What happens to the MQTT connection when the broker is away, refuses, dies, hangs or is of another kind."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import subprocess

import pytest

from edged.api.config import Mqtt
from edged.transports.mqtt import MqttTransport, transport
from tests.integration.broker import MOSQUITTO, Broker, free_port
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import ROOT, serving

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]


def test_without_a_broker_start_returns_and_the_condition_says_where_and_why():
    async def scenario():
        port = free_port()
        async with serving(port, ScriptedService(), connect=False) as mqtt:
            await until(lambda: "refused" in mqtt.condition().message)
            condition = mqtt.condition()
            assert condition.code == "mqtt_disconnected"
            assert f"127.0.0.1:{port}" in condition.message
            assert "Connection refused" in condition.message
            assert "mqtt.port" in condition.hint
            assert not mqtt.connected

    asyncio.run(scenario())


def test_a_name_that_does_not_resolve_is_a_condition():
    async def scenario():
        async with serving(1883, ScriptedService(), connect=False, host="no-such-host.invalid") as mqtt:
            await until(lambda: "resolved" in mqtt.condition().message)
            assert "mqtt.host" in mqtt.condition().hint

    asyncio.run(scenario())


def test_a_server_that_is_no_broker_is_a_condition():
    async def scenario():
        async def greet(_, writer):
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with serving(port, ScriptedService(), connect=False) as mqtt:
                await until(lambda: "did not answer" in mqtt.condition().message)
                assert "is that port an MQTT broker" in mqtt.condition().hint
                assert not mqtt.connected

    asyncio.run(scenario())


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_refused_credentials_are_named_and_corrected_ones_are_picked_up(tmp_path, version, caplog):
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "edged", "right-secret"], check=True)
    passwords.chmod(0o644)
    secret = tmp_path / "secret"
    secret.write_text("wrong-secret\n")

    async def scenario(port):
        service = ScriptedService()
        options = {"username": "edged", "password_file": str(secret), "version": version}
        async with serving(port, service, connect=False, **options) as mqtt:
            await until(lambda: mqtt.condition().code == "mqtt_refused")
            condition = mqtt.condition()
            assert not mqtt.connected
            assert "Not authorized" in condition.message
            assert "mqtt.password_file" in condition.hint
            secret.write_text("right-secret\r\n")
            await until(lambda: mqtt.connected)
            await until(lambda: mqtt.condition() is None)
            secret.unlink()
            mqtt._line.connection.abandon("try again without the file")
            await until(lambda: mqtt.condition() and "cannot be read" in mqtt.condition().message)

    with (
        caplog.at_level(logging.DEBUG),
        Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker,
    ):
        asyncio.run(scenario(broker.port))
    assert "-secret" not in caplog.text


def test_a_systemd_credential_is_found_by_its_name(tmp_path, monkeypatch):
    from edged.transports.mqtt.credentials import read_password

    (tmp_path / "mqtt").write_text("pässword\n")
    assert read_password("mqtt", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "pässword"
    assert read_password(str(tmp_path / "mqtt"), {"CREDENTIALS_DIRECTORY": "/nowhere"}) == "pässword"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_that_comes_back_finds_us_with_fresh_retained_topics(tmp_path, number):
    async def scenario(broker):
        service = ScriptedService()
        async with serving(broker.port, service) as mqtt:
            async with Peer(broker.port, "#") as peer:
                await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
            await asyncio.to_thread(broker.stop, number)
            await until(lambda: not mqtt.connected and mqtt.condition() is not None)
            for name in ("mosquitto.db",):  # a power cut may take the broker's memory with it
                (tmp_path / name).unlink(missing_ok=True)
            await asyncio.to_thread(broker.start)
            await until(lambda: mqtt.connected)
            async with Peer(broker.port, "#") as peer:
                await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
                await until(lambda: peer.on(f"{ROOT}/info"))
                peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x"})
                assert (await peer.wait(f"{ROOT}/response/me/chat"))[0]["ok"]
            assert mqtt.condition() is None

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_an_answer_computed_while_the_broker_was_away_is_delivered_when_it_is_back(tmp_path):
    async def scenario(broker):
        service = ScriptedService()
        service.gate.clear()
        async with serving(broker.port, service) as mqtt:
            # An answer is not retained: whoever waits for it has a session that outlives the broker's stop.
            await asyncio.to_thread(listen, broker.port, "-E")
            async with Peer(broker.port, "#") as sender:
                sender.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x", "stream": True}, qos=0)
                await until(lambda: service.running)
            await asyncio.to_thread(broker.stop)
            await until(lambda: not mqtt.connected)
            service.gate.set()
            await until(lambda: not service.running)
            await asyncio.to_thread(broker.start)
            await until(lambda: mqtt.connected)
            answer = await asyncio.to_thread(listen, broker.port, "-C", "1")
            assert json.loads(answer)["text"] == "echo: x"

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def listen(port, *how):
    command = [
        "mosquitto_sub",
        "-p",
        str(port),
        "-t",
        f"{ROOT}/response/#",
        "-c",
        "-i",
        "listener",
        "-q",
        "1",
    ]
    return subprocess.run([*command, "-W", "15", *how], capture_output=True, check=True).stdout


def test_a_broker_that_hangs_is_noticed_and_a_stop_stays_bounded(tmp_path):
    async def scenario(broker):
        async with serving(broker.port, ScriptedService(), keepalive_s=5) as mqtt:
            await asyncio.to_thread(broker.freeze)
            await until(lambda: not mqtt.connected, "the silence was noticed", 20)
            await asyncio.to_thread(broker.thaw)
            await until(lambda: mqtt.connected)
            await asyncio.to_thread(broker.freeze)
            began = asyncio.get_running_loop().time()
            await mqtt.stop()
            assert asyncio.get_running_loop().time() - began < 6
            await asyncio.to_thread(broker.thaw)

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_box_thrown_out_soon_after_connecting_suspects_another_of_its_name(tmp_path):
    async def scenario(broker):
        async with serving(broker.port, ScriptedService()) as mqtt:
            await until(lambda: mqtt.condition() is None)
            mqtt._backoff._uniform = lambda _low, _high: 30.0  # stay down: what counts is what is said
            async with Peer(broker.port, "#", client_id="edged-box"):
                await until(lambda: mqtt.condition() is not None)
                assert "the connection ended" in mqtt.condition().message
                assert "another box have the same `node`" in mqtt.condition().hint

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_waiting_for_a_missing_broker_costs_next_to_nothing():
    async def scenario():
        mqtt = MqttTransport(Mqtt(port=free_port()), "box", ScriptedService())
        await mqtt.start()
        await until(lambda: "refused" in mqtt.condition().message)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(3)  # the measurement itself
        after = resource.getrusage(resource.RUSAGE_SELF)
        await mqtt.stop()
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert used < 0.03 + 0.03  # 1% and the start of the first attempts, which come quickly

    asyncio.run(scenario())


def test_a_broker_that_speaks_only_3_1_1_is_served_in_3_1_1(caplog):
    broker_module = pytest.importorskip("amqtt.broker")

    async def scenario():
        port = free_port()
        amqtt = broker_module.Broker({
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        })  # fmt: skip
        await amqtt.start()
        try:
            async with (
                serving(port, ScriptedService()) as mqtt,
                Peer(port, "edged/#", version="3.1.1") as peer,
            ):
                await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
                peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x", "stream": True})
                assert (await peer.wait(f"{ROOT}/response/me/chat"))[0]["text"] == "echo: x"
                assert mqtt.connected
        finally:
            await amqtt.shutdown()

    with caplog.at_level(logging.INFO, transport.__name__):
        asyncio.run(scenario())
    assert "does not speak MQTT 5" in caplog.text
