"""A box that announces itself on a real network interface is found by `edgectl discover`."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from edgectl.client.boxes import Box, find_boxes
from edgectl.commands.discover import command, show
from edged.api.config import Config, Http, Model, Mqtt
from edged.transports import discovery
from edged.transports.discovery import MAX_TXT_BYTES, Discovery, facts
from tests.integration.mqtt_peer import until
from tests.integration.scripted_service import ScriptedService

LOOPBACK = ("127.0.0.1",)


def config(node="attic", **parts):
    return Config(node=node, model=Model(path="/m.gguf"), **parts)


async def announced_and_found(*boxes):
    """Announce ``boxes`` on loopback one after the other, look for them from a thread, take them down."""
    running = [Discovery(box, ScriptedService(), interfaces=LOOPBACK) for box in boxes]
    try:
        for one in running:
            await one.start(8642)
            await until(lambda one=one: one.announced, "announced")
        assert all(one.condition() is None for one in running)
        # Longer than a second: what was announced just now is not repeated before (RFC 6762, 6).
        return await asyncio.to_thread(find_boxes, 3.0, LOOPBACK)
    finally:
        for one in running:
            await one.stop()


def test_a_box_is_found_with_its_model_and_how_to_reach_it():
    (box,) = asyncio.run(announced_and_found(config()))
    assert box == Box(
        name="attic", addresses=LOOPBACK, port=8642, node="attic", version="0", model="fake Q0",
        http="loopback", path="/v1", auth="no", mqtt="127.0.0.1:1883", topic="edged/attic",
    )  # fmt: skip
    assert box.url is None


def test_two_boxes_of_one_name_are_both_found():
    found = asyncio.run(announced_and_found(config(), config()))
    assert sorted(box.name for box in found) == ["attic", "attic-2"]


def test_a_box_that_stops_says_goodbye():
    async def scenario():
        box = Discovery(config(), ScriptedService(), interfaces=LOOPBACK)
        await box.start(None)
        await until(lambda: box.announced)
        search = asyncio.create_task(asyncio.to_thread(find_boxes, 3.0, LOOPBACK))
        await asyncio.sleep(1)  # it has been heard by now; the goodbye must take it out again
        await box.stop()
        assert await search == []

    asyncio.run(scenario())


def test_a_computer_without_a_network_is_a_condition_and_stops_at_once(monkeypatch):
    async def scenario():
        monkeypatch.setattr(discovery, "local_addresses", tuple)
        box = Discovery(config(), ScriptedService())
        await box.start(8642)
        await until(lambda: "no network address" in box.condition().message)
        assert "discovery.enabled" in box.condition().hint
        await asyncio.wait_for(box.stop(), 1)

    asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zeroconf drops a socket
def test_an_address_that_is_not_ours_is_a_condition():
    async def scenario():
        box = Discovery(config(), ScriptedService(), interfaces=("198.51.100.7",))
        await box.start(8642)
        await until(lambda: "no attempt" not in box.condition().message)
        assert box.condition().code == "discovery_off"
        await box.stop()

    asyncio.run(scenario())


def test_the_facts_say_what_can_be_reached_from_outside():
    service = ScriptedService()
    open_http = config(http=Http(host="0.0.0.0", keys_file="/key"), mqtt=Mqtt(enabled=False))
    assert facts(open_http, service, 8642)["http"] == "yes"
    assert facts(open_http, service, 8642)["auth"] == "yes"
    assert "mqtt" not in facts(open_http, service, 8642)
    assert facts(config(), service, None)["http"] == "no"
    long = config(mqtt=Mqtt(base="ü" * 400))
    assert all(
        len(f"{key}={value}".encode()) <= MAX_TXT_BYTES for key, value in facts(long, service, 1).items()
    )


def test_addresses_are_shown_as_they_work_from_here():
    box = Box(name="a", addresses=("192.0.2.7",), port=8642, http="yes", mqtt="127.0.0.1:1883")
    assert box.url == "http://192.0.2.7:8642"
    assert box.broker == "192.0.2.7:1883"
    six = Box(name="a", addresses=("fd00::7",), port=8642, http="yes", mqtt="hub.local:1883")
    assert six.url == "http://[fd00::7]:8642"
    assert six.broker == "hub.local:1883"


def test_the_command_helps_when_nothing_is_found():
    result = CliRunner().invoke(command, ["--timeout", "0.1", "--interface", "127.0.0.1"])
    assert result.exit_code == 0
    assert "No box announced itself" in result.output
    assert "discovery.enabled" in result.output
    result = CliRunner().invoke(command, ["--timeout", "0.1", "--interface", "127.0.0.1", "--json"])
    assert json.loads(result.output) == []


def test_the_command_shows_strangers_as_text(capsys):
    show([Box(name="[red]x", addresses=("192.0.2.7",), port=1, model="[link=http://evil]m", http="loopback")])
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "[link=http://evil]m" in shown
    assert "on the box only" in shown


@pytest.mark.parametrize("value", ["0", "-1", "61", "x"])
def test_a_timeout_out_of_range_is_a_usage_error(value):
    assert CliRunner().invoke(command, ["--timeout", value]).exit_code == 2
