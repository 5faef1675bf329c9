"""Promise P15: under a flood memory is bounded, refusals say when to come back, no answer is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.bench.scenarios.flood import Peak, resident_mib
from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.mqtt_crowd import Crowd, allow_files
from tests.kit.service import fake_model, fake_tree

GROWTH_MIB = 16
CLIENTS = 200
REQUESTS = 2000
PER_S = 950  # fifty times what the scripted engine answers: four slots, 21 steps of 10 ms an answer

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@needs_mosquitto
def test_a_flood_over_mqtt_leaves_memory_bounded_and_every_request_with_one_answer(tmp_path):
    async def scenario(daemon, port):
        async with Crowd(port, "box", CLIENTS) as crowd:
            crowd.ask(-1)
            await crowd.answered()
            before, peak = resident_mib(daemon.pid), Peak(daemon.pid)
            watching = asyncio.create_task(peak.watch())
            await crowd.flood(REQUESTS, PER_S)
            await crowd.answered()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            return crowd.answers(), peak.mib - before

    allow_files(CLIENTS)
    tree = fake_tree(fake_model(tmp_path, answer="0123456789" * 2, step_s=0.01))
    with Broker(tmp_path) as broker:
        tree["mqtt"] = {"enabled": True, "port": broker.port}
        with running_daemon(tree, tmp_path) as daemon:
            answers, growth_mib = asyncio.run(scenario(daemon, broker.port))
            counters = daemon.status()["counters"]
    assert growth_mib <= GROWTH_MIB
    assert {name: len(came) for name, came in answers.items() if len(came) != 1} == {}
    messages = [came[0][1] for came in answers.values()]
    refusals = [message["error"] for message in messages if not message["ok"]]
    assert {error["code"] for error in refusals} == {"busy"}
    assert all(error["retry_after_s"] >= 1 for error in refusals)
    assert counters["accepted"] == counters["finished"] == len(messages) - len(refusals)


def test_a_flood_over_http_leaves_memory_bounded_and_every_accepted_request_answered(tmp_path):
    tree = fake_tree(fake_model(tmp_path, answer="0123456789" * 2, step_s=0.01), limits={"queue": 8})
    with running_daemon(tree, tmp_path) as daemon:
        assert daemon.chat("first")[0] == 200
        before = resident_mib(daemon.pid)
        found: list[tuple[int, dict]] = []

        def client(number: int) -> None:
            found.extend(daemon.chat(f"question {number} {count}") for count in range(40))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        wait_until(lambda: not daemon.status()["running"], "the box to be idle")
        growth_mib = resident_mib(daemon.pid) - before
        counters = daemon.status()["counters"]
    assert growth_mib <= GROWTH_MIB
    codes = [code for code, _ in found]
    assert len(codes) == 24 * 40
    assert set(codes) == {200, 429}
    assert all(body["error"]["retry_after_s"] >= 1 for code, body in found if code == 429)
    assert counters["accepted"] == counters["finished"] == codes.count(200) + 1
