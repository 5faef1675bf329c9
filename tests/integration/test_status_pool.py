"""edgectl status tells which pool a box belongs to, and what it does there."""

from __future__ import annotations

import asyncio
import json

import pytest

from edgectl.cli import cli
from edgectl.output.outcome import run
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.service import fake_model, fake_tree

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def tree(tmp_path, broker):
    return fake_tree(fake_model(tmp_path), mqtt={"enabled": True, "port": broker.port})


async def ask(port, count):
    async with Peer(port, "edged/pool/response/#") as peer:
        for number in range(count):
            peer.send("edged/pool/request/esp/chat", {"id": str(number), "prompt": "q"})
        await peer.wait("edged/pool/response/esp/chat", count)


def test_a_member_of_a_pool_says_so_over_http_and_over_mqtt(tmp_path, broker, tree, capsys):
    with running_daemon(tree | {"pool": {"enabled": True, "name": "house"}}, tmp_path) as daemon:
        pool = lambda: daemon.status()["mqtt"]["pool"]  # noqa: E731 - read again each time
        wait_until(lambda: pool()["state"] == "serving", "the box serves its pool")
        urls = daemon.url, f"mqtt://127.0.0.1:{broker.port}/edged/box"
        for url in urls:
            wait_until(
                lambda url=url: "house, serving, no other box serves" in shown(url, capsys), "the pool"
            )
            status = json.loads(shown(url, capsys, "--json"))
            assert status["mqtt"]["pool"]["name"] == "house"
        assert "Broker" in shown(urls[0], capsys)
        assert "Broker" not in shown(urls[1], capsys), (
            "a box does not tell over MQTT where it finds the broker"
        )


def test_what_a_box_did_for_its_pool_is_counted(tmp_path, broker, tree, capsys):
    with running_daemon(tree | {"pool": {"enabled": True}}, tmp_path) as daemon:
        wait_until(lambda: daemon.status()["mqtt"]["pool"]["state"] == "serving", "the box serves its pool")
        asyncio.run(ask(broker.port, 3))
        assert "pool, serving, no other box serves; 3 begun here, 0 handed on" in shown(daemon.url, capsys)


def test_a_box_of_no_pool_says_nothing_of_one(tmp_path, broker, tree, capsys):
    with running_daemon(tree, tmp_path) as daemon:
        assert "Pool" not in shown(daemon.url, capsys)
        assert "Pool" not in shown(f"mqtt://127.0.0.1:{broker.port}/edged/box", capsys)


def shown(url, capsys, *words):
    assert run(cli, ["status", "--url", url, *words]) == 0
    return capsys.readouterr().out
