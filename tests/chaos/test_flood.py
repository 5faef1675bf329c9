"""Promise P15: under a flood memory is bounded, refusals say when to come back, no answer is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import pytest

from tests.bench.scenarios.flood import Peak, resident_mib
from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.fault_proxy import FaultProxy
from tests.kit.mqtt_crowd import Crowd, allow_files
from tests.kit.service import fake_model, fake_tree

GROWTH_MIB = 16
CLIENTS = 200
REQUESTS = 2000
PER_S = 950  # fifty times what the scripted engine answers: four slots, 21 steps of 10 ms an answer

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def flooded(tmp_path, qos, requests, per_s, tree):
    """Answers by id, MiB that the daemon grew, its last status, and QoS 1 requests it had at once at most."""

    async def scenario(daemon, port):
        async with Crowd(port, "box", CLIENTS, qos=qos) as crowd:
            crowd.ask(-1)
            await crowd.answered()
            before, peak = resident_mib(daemon.pid), Peak(daemon.pid)
            watching = asyncio.create_task(peak.watch())
            await crowd.flood(requests, per_s)
            await crowd.answered()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            return crowd.answers(), peak.mib - before

    allow_files(CLIENTS)
    with (
        Broker(tmp_path, "allow_anonymous true", "max_queued_messages 0") as broker,
        FaultProxy(broker.port) as proxy,
    ):
        # Of messages at QoS 0 a broker drops some when whoever reads them is a little slower.
        tree["mqtt"] = {"enabled": True, **tree.get("mqtt", {}), "port": proxy.port if qos else broker.port}
        with running_daemon(tree, tmp_path) as daemon:
            answers, growth_mib = asyncio.run(scenario(daemon, broker.port))
            return answers, growth_mib, daemon.status(), proxy.most_unacknowledged


@needs_mosquitto
def test_a_flood_over_mqtt_leaves_memory_bounded_and_every_request_with_one_answer(tmp_path):
    tree = fake_tree(fake_model(tmp_path, answer="0123456789" * 2, step_s=0.01))
    answers, growth_mib, status, _ = flooded(tmp_path, 0, REQUESTS, PER_S, tree)
    assert growth_mib <= GROWTH_MIB
    assert {name: len(came) for name, came in answers.items() if len(came) != 1} == {}
    messages = [came[0][1] for came in answers.values()]
    refusals = [message["error"] for message in messages if not message["ok"]]
    assert {error["code"] for error in refusals} == {"busy"}
    assert all(error["retry_after_s"] >= 1 for error in refusals)
    counters = status["counters"]
    assert counters["accepted"] == counters["finished"] == len(messages) - len(refusals)


@needs_mosquitto
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_flood_at_qos_1_refuses_nobody_and_answers_each_once(tmp_path, version, record_property):
    """What is too much waits without an acknowledgement, of which mosquitto 2.0.11 delivers more and more."""
    model = fake_model(tmp_path, answer="0123456789", step_s=0.002)  # 180 answers a second
    tree = fake_tree(model, model={"slots": 4}, limits={"queue": 8}, mqtt={"version": version})
    answers, growth_mib, status, unacknowledged = flooded(tmp_path, 1, REQUESTS, 50 * 180, tree)
    record_property("growth MiB", round(growth_mib, 1))
    record_property("unacknowledged at most", unacknowledged)
    assert {name: len(came) for name, came in answers.items() if len(came) != 1} == {}
    assert [came[0][1] for came in answers.values() if not came[0][1]["ok"]] == []
    assert growth_mib <= GROWTH_MIB
    counters = status["counters"]
    assert counters["accepted"] == counters["finished"] == REQUESTS + 1


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


@contextlib.contextmanager
def flood_over_http(daemon):
    """More requests at once than one client may have; yields how many were answered."""
    answered = [0]
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            code, _ = daemon.chat("flood")
            answered[0] += code == 200
            if code == 429:
                over.wait(0.05)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: answered[0]
    finally:
        over.set()
        for thread in threads:
            thread.join(120)


@contextlib.asynccontextmanager
async def flood_over_mqtt(member):
    """Ten times what the box answers; yields how many were answered."""

    async def ask() -> None:
        while True:
            member.publish(f"edged/box/request/{member.name}/chat", b'{"prompt": "flood"}')
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask())
    try:
        yield lambda: sum(json.loads(payload)["ok"] for _, _, payload in member.heard)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@needs_mosquitto
@pytest.mark.parametrize("transport", ["mqtt", "http"])
def test_beside_a_flood_a_light_client_waits_for_two_answers_at_most(tmp_path, transport, record_property):
    """One that has just begun and one whose turn it is: three times what it takes alone, however fast."""

    async def scenario(daemon, port):
        waited = []
        async with Crowd(port, "box", 2, name="device") as crowd, contextlib.AsyncExitStack() as stack:
            flooder, light = crowd.members
            if transport == "mqtt":
                answered = await stack.enter_async_context(flood_over_mqtt(flooder))
            else:
                flood = flood_over_http(daemon)
                answered = await asyncio.to_thread(flood.__enter__)
                stack.push_async_callback(asyncio.to_thread, flood.__exit__, None, None, None)
            await asyncio.to_thread(
                wait_until, lambda: daemon.status()["counters"]["refused"], "more than the box takes"
            )
            for _ in range(20):
                before = answered()
                light.news.clear()
                light.publish("edged/box/request/device-1/chat", b'{"prompt": "light"}', 1)
                await asyncio.wait_for(light.news.wait(), 60)
                waited.append(answered() - before)
            assert all(json.loads(payload)["ok"] for _, _, payload in light.heard)
        return sorted(waited)

    tree = fake_tree(fake_model(tmp_path, answer="0123456789" * 2, step_s=0.01), model={"slots": 1})
    with Broker(tmp_path) as broker:
        tree["mqtt"] = {"enabled": True, "port": broker.port}
        with running_daemon(tree, tmp_path) as daemon:
            waited = asyncio.run(scenario(daemon, broker.port))
    record_property("answers waited for", waited)
    assert waited[18] <= 2, "p95"
    assert waited[18] >= 1, "there was no flood to wait for"
