"""The real daemon process on a real broker: what a kill or a stop costs its MQTT clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.test_mqtt import ROOT, VERSIONS
from tests.kit.daemon import Daemon
from tests.kit.service import fake_model, fake_tree

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]


@contextlib.contextmanager
def daemon(tmp_path, broker, version="5", *, embeddings=False, **script):
    """A started daemon that answers MQTT; killed at the end unless it has ended."""
    tree = fake_tree(
        fake_model(tmp_path, **script),
        model={"embeddings": embeddings},
        mqtt={"enabled": True, "port": broker.port, "version": version},
    )
    running = Daemon(tree, tmp_path)
    try:
        yield running
    finally:
        if running.process and running.process.poll() is None:
            running.process.kill()
            running.process.wait(10)


def test_choices_are_scored_and_texts_embedded_for_devices(tmp_path):
    async def scenario(broker, edged, op, body):
        async with Peer(broker.port, "#") as peer:
            await asyncio.to_thread(edged.start)
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"), "online")
            peer.send(f"{ROOT}/request/me/{op}", {"id": "1", **body})
            (answer,) = await peer.wait(f"{ROOT}/response/me/{op}", 1)
            assert answer["ok"], answer
            edged.signal(signal.SIGTERM)
            assert await asyncio.to_thread(edged.process.wait, 30) == 0
            return answer

    with Broker(tmp_path) as broker:
        with daemon(tmp_path, broker, answer="shut") as edged:
            body = {"prompt": "How is the door?", "choices": ["open", "shut"]}
            answer = asyncio.run(scenario(broker, edged, "classify", body))
            assert answer["text"] == "shut"
            assert [score["choice"] for score in answer["scores"]] == ["open", "shut"]
        with daemon(tmp_path, broker, embeddings=True) as edged:
            answer = asyncio.run(scenario(broker, edged, "embed", {"inputs": ["warm", "cold"]}))
            assert [len(base64.b64decode(one)) for one in answer["embeddings"]] == [32, 32]


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_under_way_when_the_daemon_is_killed_are_answered_by_the_next(tmp_path, version):
    async def scenario(broker, edged):
        async with Peer(broker.port, "#", version=version) as peer:
            await asyncio.to_thread(edged.start)
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"), "online")
            for number in range(8):
                peer.send(f"{ROOT}/request/me/chat", {"id": str(number), "prompt": f"question {number}"})
            await peer.wait(f"{ROOT}/stream/me", 8)  # all accepted, none answered: each step takes its time
            edged.signal(signal.SIGKILL)
            edged.process.wait(10)
            await until(lambda: peer.texts(f"{ROOT}/status")[-1] == "offline", "the will")
            assert {one["id"] for one in peer.documents(f"{ROOT}/response/me/chat")} == set()
            await asyncio.to_thread(edged.start)
            answers = await peer.wait(f"{ROOT}/response/me/chat", 8)
            assert {one["id"]: one["text"] for one in answers} == {
                str(number): f"echo: question {number}" for number in range(8)
            }

    with Broker(tmp_path) as broker, daemon(tmp_path, broker, version, step_s=0.15) as edged:
        asyncio.run(scenario(broker, edged))


def test_a_stop_says_offline_and_ends_in_time_with_the_broker_hanging(tmp_path):
    async def scenario(broker, edged):
        async with Peer(broker.port, "#") as peer:
            await asyncio.to_thread(edged.start)
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
            edged.signal(signal.SIGTERM)
            assert await asyncio.to_thread(edged.process.wait, 30) == 0
            assert peer.texts(f"{ROOT}/status")[-1] == "offline"
            await asyncio.to_thread(edged.start)
            await until(lambda: peer.texts(f"{ROOT}/status")[-1] == "online")
            broker.freeze()
            began = time.monotonic()
            edged.signal(signal.SIGTERM)
            try:
                assert await asyncio.to_thread(edged.process.wait, 30) == 0
            finally:
                broker.thaw()
            assert time.monotonic() - began < 15

    with Broker(tmp_path) as broker, daemon(tmp_path, broker) as edged:
        asyncio.run(scenario(broker, edged))


def test_an_idle_connected_daemon_uses_less_than_one_percent_of_a_core(tmp_path):
    def cpu_s(pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with Broker(tmp_path) as broker, daemon(tmp_path, broker) as edged:
        edged.start()
        before_s, window_s = cpu_s(edged.pid), 6.0
        time.sleep(window_s)  # the measurement itself
        assert cpu_s(edged.pid) - before_s <= 0.01 * window_s + 0.01  # one clock tick of rounding
        assert "mqtt connected" in edged.log
