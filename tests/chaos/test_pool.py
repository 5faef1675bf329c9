"""Three daemons share the work of one broker, and two of them are lost in the middle of it."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest

from tests.integration.broker import MOSQUITTO, Broker, free_port
from tests.integration.mqtt_peer import Peer
from tests.kit.daemon import wait_until
from tests.kit.network import cables
from tests.kit.pool import ROOT, SLOTS, answers, await_serving, members

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

HEARD = (f"{ROOT}/response/#", f"{ROOT}/box/+")
REQUESTS = 300


@pytest.fixture
def three():
    """Cables to three computers."""
    try:
        with cables(3) as laid:
            yield laid
    except OSError as error:
        pytest.skip(f"this host has no network namespaces for us: {error}")


def ask(peer, count, client="esp"):
    for number in range(count):
        peer.send(f"{ROOT}/request/{client}/chat", {"id": f"r{number}", "prompt": f"question {number}"})


def test_every_request_is_answered_though_one_box_is_killed_and_one_cut_off(tmp_path, three, record_property):
    port = free_port()
    listeners = [f"listener {port} {cable.here}" for cable in three]

    async def scenario(broker):
        async with Peer(broker.port, *HEARD) as peer:
            with members(tmp_path, [0.02] * 3, port=port, tokens=10, cables=three) as boxes:
                await asyncio.to_thread(await_serving, peer, boxes)
                ask(peer, REQUESTS)
                killed, cut, last = boxes
                await asyncio.to_thread(wait_until, lambda: len(answers(peer, "esp")) >= 60, "60 answers")
                killed.send(signal.SIGKILL)
                await asyncio.to_thread(wait_until, lambda: len(answers(peer, "esp")) >= 120, "120 answers")
                three[1].cut()
                await asyncio.to_thread(
                    wait_until,
                    lambda: len({one["id"] for one in answers(peer, "esp")}) == REQUESTS,
                    "an answer for every request", 120,
                )  # fmt: skip
                three[1].mend()
                await asyncio.to_thread(await_serving, peer, [cut, last])
                ask(peer, 10, "late")
                await asyncio.to_thread(
                    wait_until, lambda: len(answers(peer, "late")) >= 10, "answers after the mending"
                )
                return answers(peer, "esp")

    with Broker(tmp_path, "allow_anonymous true", *listeners) as broker:
        heard = asyncio.run(scenario(broker))
    assert all(one["ok"] for one in heard), [one for one in heard if not one["ok"]]
    assert {one["id"] for one in heard} == {f"r{number}" for number in range(REQUESTS)}
    twice = len(heard) - REQUESTS
    record_property("answered twice", twice)
    record_property("answered by", dict(Counter(one["node"] for one in heard)))
    assert twice <= 2 * SLOTS, "only what a lost box had answered and not acknowledged may be answered again"


def test_faster_boxes_answer_more(tmp_path, record_property):
    async def scenario(broker):
        async with Peer(broker.port, *HEARD) as peer:
            with members(tmp_path, [0.04, 0.02, 0.01], port=broker.port, tokens=10) as boxes:
                await asyncio.to_thread(await_serving, peer, boxes)
                ask(peer, REQUESTS)
                await asyncio.to_thread(
                    wait_until, lambda: len(answers(peer, "esp")) >= REQUESTS, "an answer for every request"
                )
                for box in boxes:
                    box.stop()
                return answers(peer, "esp")

    with Broker(tmp_path) as broker:
        heard = asyncio.run(scenario(broker))
    assert len(heard) == REQUESTS
    assert {one["id"] for one in heard} == {f"r{number}" for number in range(REQUESTS)}
    slow, middle, fast = (sum(one["node"] == node for one in heard) for node in "abc")
    record_property("answered by", {"a": slow, "b": middle, "c": fast})
    # In proportion to 1 : 2 : 4 they would be 43, 86 and 171; the broker alone would deal 100 to each.
    assert slow < 75 < middle < 120 < fast, (slow, middle, fast)
