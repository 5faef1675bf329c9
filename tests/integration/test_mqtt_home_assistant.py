"""Home Assistant over a real broker to the real daemon: found, asked again, its buttons, taken back."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.test_mqtt import ROOT, VERSIONS
from tests.kit.daemon import Daemon, alive
from tests.kit.service import fake_model, fake_tree

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

CONFIG = "homeassistant/device/edged_box/config"


@contextlib.asynccontextmanager
async def box(tmp_path, broker, version="5", **mqtt):
    """A daemon, and a peer that hears all of it."""
    where = {"enabled": True, "port": broker.port, "version": version}
    tree = fake_tree(fake_model(tmp_path), mqtt={**where, "home_assistant": True, **mqtt})
    edged = Daemon(tree, tmp_path)
    async with Peer(broker.port, "#", version=version) as peer:
        try:
            await asyncio.to_thread(edged.start)
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"), "online")
            yield edged, peer
        finally:
            await asyncio.to_thread(edged.stop)


async def retained(broker, topic):
    """What a subscriber that comes now finds on ``topic``; None when nothing."""
    async with Peer(broker.port, topic, "the/end") as late:
        late.send("the/end", "")
        await until(lambda: late.on("the/end"), "the end of what is retained")
        await asyncio.sleep(0)
        found = late.on(topic)
        return json.loads(found[0].payload) if found else None


def health(peer):
    return peer.documents(f"{ROOT}/health")[-1]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_box_is_told_of_retained_and_again_when_home_assistant_is_born(tmp_path, version):
    async def scenario(broker):
        async with box(tmp_path, broker, version) as (_edged, peer):
            await until(lambda: peer.on(CONFIG), "the discovery message")
            config = peer.documents(CONFIG)[0]
            assert config == await retained(broker, CONFIG)
            assert "last_answer" not in config["cmps"]
            heard = len(peer.on(CONFIG))
            peer.send("homeassistant/status", "offline")
            peer.send("homeassistant/status", "online")
            await until(lambda: len(peer.on(CONFIG)) > heard, "the discovery message again")
            topics = {one["state_topic"] for one in config["cmps"].values() if "state_topic" in one}
            assert topics == {f"{ROOT}/health", f"{ROOT}/info"}
            for topic in topics:
                assert await retained(broker, topic)

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_buttons_unload_and_reload_the_model_and_requests_load_it_again(tmp_path, version):
    async def scenario(broker):
        async with box(tmp_path, broker, version) as (edged, peer):
            await until(lambda: peer.on(CONFIG), "the discovery message")
            buttons = peer.documents(CONFIG)[0]["cmps"]
            pid = edged.status()["worker_pid"]

            def press(name):
                peer.send(buttons[name]["command_topic"], buttons[name]["payload_press"], qos=0)

            press("unload")
            await until(lambda: edged.status()["engine"] == "unloaded", "the model to be unloaded")
            assert not alive(pid)
            await until(lambda: health(peer)["loaded"] is False, "the health to say so")
            assert health(peer)["state"] == "ok"
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "hello"})
            (answer,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert answer["text"] == "echo: hello"
            await until(lambda: health(peer)["loaded"], "the health to say that it is back")
            pid = edged.status()["worker_pid"]
            press("reload")
            await until(lambda: edged.status()["worker_pid"] not in {pid, None}, "a fresh worker")
            press("unload")
            await until(lambda: edged.status()["engine"] == "unloaded", "the model to be unloaded")
            press("reload")
            await until(lambda: edged.status()["engine"] == "ready", "the model to be loaded")

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_retained_or_unknown_command_is_ignored(tmp_path):
    async def scenario(broker):
        async with Peer(broker.port, "none") as before:
            before.send(f"{ROOT}/model", "unload", retain=True)
            async with box(tmp_path, broker) as (edged, peer):
                peer.send(f"{ROOT}/model", "explode")
                peer.send(f"{ROOT}/model", b"\xff" * 100)
                peer.send(f"{ROOT}/ask", "hello")
                await until(lambda: peer.texts(f"{ROOT}/answer") == ["echo: hello"])
                assert edged.status()["engine"] == "ready"
                assert edged.status()["counters"]["engine_restarts"] == 0

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_box_that_is_switched_off_in_home_assistant_takes_its_message_back_and_no_other(tmp_path):
    async def scenario(broker):
        async with Peer(broker.port, "none") as other:
            other.send("homeassistant/device/edged_other/config", "{}", retain=True)
            async with box(tmp_path, broker) as (edged, peer):
                await until(lambda: peer.on(CONFIG), "the discovery message")
            async with box(tmp_path, broker, home_assistant=False) as (edged, peer):
                await until(lambda: any(not one.payload for one in peer.on(CONFIG)), "an empty message")
                peer.send(f"{ROOT}/model", "unload")
                peer.send(f"{ROOT}/ask", "hello")
                await until(lambda: peer.texts(f"{ROOT}/answer") == ["echo: hello"])
                assert edged.status()["engine"] == "ready"
            assert await retained(broker, CONFIG) is None
            assert await retained(broker, "homeassistant/device/edged_other/config") == {}
            async with box(tmp_path, broker, home_assistant=False) as (edged, peer):
                assert not peer.on(CONFIG)
                assert not list(edged.state.glob("home-assistant*"))

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_the_last_answer_is_shown_where_it_is_wanted_and_never_retained(tmp_path):
    async def scenario(broker):
        async with box(tmp_path, broker, last_answer=True) as (_edged, peer):
            await until(lambda: peer.on(CONFIG), "the discovery message")
            assert peer.documents(CONFIG)[0]["cmps"]["last_answer"]["state_topic"] == f"{ROOT}/last_answer"
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "hello"})
            (shown,) = await peer.wait(f"{ROOT}/last_answer")
            assert shown == {"id": "1", "client": "me", "op": "chat", "finish": "stop", "text": "echo: hello"}
            assert await retained(broker, f"{ROOT}/last_answer") is None
        async with box(tmp_path, broker) as (_edged, peer):
            peer.send(f"{ROOT}/ask", "hello")
            await until(lambda: peer.texts(f"{ROOT}/answer") == ["echo: hello"])
            assert not peer.on(f"{ROOT}/last_answer")

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))
