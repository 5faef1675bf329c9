"""A box that announces itself on a real network interface is found by `edgectl discover`."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from click.testing import CliRunner
from msgspec import structs
from zeroconf.asyncio import AsyncZeroconf

from edgectl.client.boxes import Box, find_boxes
from edgectl.client.census import Sight
from edgectl.commands.discover import command, show
from edged.api.config import Config, Http, Model
from edged.transports import discovery
from edged.transports.announcement import OPENAI
from edged.transports.discovery import Discovery
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
        health="ok", load=0, tok_s=4.56, context=512,
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


class Changing(ScriptedService):
    """A box whose places for requests fill up when a test says so."""

    def __init__(self):
        super().__init__()
        self.queued = 0

    def status(self):
        return structs.replace(super().status(), queue=self.queued, capacity=8)


def test_what_changes_about_a_box_is_announced_again():
    async def scenario():
        service = Changing()
        box = Discovery(config(), service, interfaces=LOOPBACK, watch_s=0.1)
        await box.start(8642)
        try:
            await until(lambda: box.announced)
            service.queued, service.ready = 3, False
            (found,) = await asyncio.to_thread(find_boxes, 3.0, LOOPBACK)
            assert (found.load, found.health) == (50, "loading")
            service.queued, service.ready = 8, True
            (found,) = await asyncio.to_thread(find_boxes, 3.0, LOOPBACK)
            assert (found.load, found.health) == (100, "overloaded")
        finally:
            await box.stop()

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def announced():
    """A box that is announced, and the addresses it has had: the last of them is the present one."""
    addresses = [("127.0.0.2",)]
    box = Discovery(
        config(), ScriptedService(), interfaces=LOOPBACK, addresses=lambda: addresses[-1], watch_s=0.1
    )
    await box.start(8642)
    try:
        await until(lambda: box.announced)
        yield box, addresses
    finally:
        await box.stop()


def test_a_new_address_is_announced_in_place_of_the_old_one():
    async def scenario():
        async with announced() as (box, addresses):
            addresses.append(("127.0.0.3",))
            (found,) = await asyncio.to_thread(find_boxes, 4.0, LOOPBACK)
            assert found.addresses == ("127.0.0.3",)
            assert found.name == "attic"
            addresses.append(())  # the network is gone: a condition, and found again when it is back
            await until(lambda: box.condition() is not None)
            addresses.append(("127.0.0.4",))
            await until(lambda: box.announced)

    asyncio.run(scenario())


def test_a_goodbye_that_fails_in_an_unknown_way_is_a_condition_and_no_end():
    async def scenario():
        async with announced() as (box, addresses):
            close = box._zeroconf.async_close

            async def fails():
                await close()
                raise RuntimeError("a defect of the library")

            box._zeroconf.async_close = fails
            addresses.append(("127.0.0.3",))
            await until(lambda: box.condition() is not None)
            assert "a defect of the library" in box.condition().message
            await until(lambda: box.announced)

    asyncio.run(scenario())


def test_a_box_that_others_can_use_is_found_as_a_server_of_the_openai_dialect():
    async def scenario():
        box = Discovery(
            config(http=Http(host="0.0.0.0", keys_file="k")), ScriptedService(), interfaces=LOOPBACK
        )
        await box.start(8642)
        zeroconf = AsyncZeroconf(interfaces=list(LOOPBACK))
        try:
            await until(lambda: box.announced)
            info = await zeroconf.async_get_service_info(OPENAI, f"attic.{OPENAI}", timeout=5000)
            assert info.port == 8642
            told = info.decoded_properties
            assert told["path"] == "/v1"
            assert told["auth"] == "yes"
            assert told["model"] == "fake Q0"
            assert "topic" not in told
        finally:
            await zeroconf.async_close()
            await box.stop()

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
    evil = Box(name="[red]x", addresses=("192.0.2.7",), port=1, model="[link=http://evil]m", http="loopback")
    show([Sight(box=evil, problem="says \x1b[31m")])
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "[link=http://evil]m" in shown
    assert "on the box only" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("value", ["0", "-1", "61", "x"])
def test_a_timeout_out_of_range_is_a_usage_error(value):
    assert CliRunner().invoke(command, ["--timeout", value]).exit_code == 2
