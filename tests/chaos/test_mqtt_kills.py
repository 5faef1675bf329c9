"""Daemon, worker and broker are killed at random: a request at QoS 1 is answered at least once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.integration.broker import MOSQUITTO, Broker, free_port
from tests.integration.mqtt_peer import Peer, until
from tests.kit.daemon import Daemon, wait_until
from tests.kit.fault_proxy import FaultProxy
from tests.kit.service import fake_model, fake_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]
BASE = "edged/box"
ROUNDS = int(os.environ.get("EDGED_TEST_ROUNDS", "15"))  # the promise is for 100: two minutes
REQUESTS = 12  # of one round
ROUND_S = 0.3  # which they take to answer
SEED = int(os.environ.get("EDGED_TEST_SEED", "20261122"))


class Ledger:
    """A device whose session and requests outlive its connections: what it asked, and what it was told."""

    def __init__(self, port: int) -> None:
        self.asked: dict[str, str] = {}
        self.answers: dict[str, list[dict]] = {}
        self._port = port
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, "ledger", clean_session=False, protocol=paho.MQTTv311
        )
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{BASE}/response/ledger/+", 1)
        self._client.on_message = lambda _c, _u, message: self._heard(message.payload)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        wait_until(self._client.is_connected, "the ledger's connection")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def ask(self, name: str) -> None:
        """Ask, or repeat what was asked."""
        self.asked[name] = f"echo: question {name}"
        body = f'{{"id": "{name}", "prompt": "question {name}"}}'
        self._client.publish(f"{BASE}/request/ledger/chat", body, qos=1)

    def _heard(self, payload: bytes) -> None:
        answer = json.loads(payload)
        self.answers.setdefault(answer["id"], []).append(answer)

    def untold(self) -> set[str]:
        """Requests that nothing was said about."""
        return set(self.asked) - set(self.answers)

    def unanswered(self) -> set[str]:
        return {name for name in self.asked if not any(one["ok"] for one in self.answers.get(name, ()))}

    def wrong(self) -> list[dict]:
        """Answers that are neither what was asked for nor say that the engine died over the request."""
        return [
            one
            for name, answers in self.answers.items()
            for one in answers
            if one.get("text") != self.asked.get(name) and one.get("error", {}).get("code") != "internal"
        ]

    def figures(self) -> dict[str, int]:
        """Requests, how many of them were answered, lost, and told that the engine died; repeated answers."""
        told = self.answers.values()
        good = [sum(one["ok"] for one in answers) for answers in told]
        return {
            "asked": len(self.asked),
            "answered": sum(map(bool, good)),
            "lost": len(self.untold()),
            "told that the engine died": sum(not all(one["ok"] for one in answers) for answers in told),
            "answered again": sum(good) - sum(map(bool, good)),
        }


@contextlib.contextmanager
def without_daemon(daemon: Daemon, broker: Broker, proxy: FaultProxy) -> Iterator[None]:
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    yield
    daemon.start()


@contextlib.contextmanager
def without_worker(daemon: Daemon, broker: Broker, proxy: FaultProxy) -> Iterator[None]:
    worker = daemon.status()["worker_pid"]
    if worker:
        os.kill(worker, signal.SIGKILL)
    yield
    wait_until(daemon.ready, "a new worker")


@contextlib.contextmanager
def without_broker(daemon: Daemon, broker: Broker, proxy: FaultProxy) -> Iterator[None]:
    """A power cut of a broker that keeps what it acknowledged, which mosquitto does when told to save."""
    proxy.stall()
    broker.save()
    broker.stop(signal.SIGKILL)
    proxy.cut()
    yield
    broker.start()
    proxy.resume()


WITHOUT = {"daemon": without_daemon, "worker": without_worker, "broker": without_broker}


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_whatever_is_killed_each_request_at_qos_1_is_answered(tmp_path, record_property):
    print(f"EDGED_TEST_SEED={SEED} EDGED_TEST_ROUNDS={ROUNDS}")
    luck = random.Random(SEED)
    killed: Counter[str] = Counter()
    victims: list[str] = []  # each of the three comes once in three rounds
    tree = fake_tree(fake_model(tmp_path, step_s=0.004), model={"slots": 4}, limits={"queue": 64})
    with (
        Broker(tmp_path, "allow_anonymous true", "max_queued_messages 0") as broker,
        FaultProxy(broker.port) as proxy,
        Ledger(proxy.port) as ledger,
    ):
        tree["mqtt"] = {"enabled": True, "port": proxy.port}
        daemon = Daemon(tree, tmp_path).start()
        try:
            for number in range(ROUNDS):
                victims = victims or luck.sample(list(WITHOUT), 3)
                victim = victims.pop()
                before = luck.randrange(1, REQUESTS + 1)
                for request in range(before):
                    ledger.ask(f"{number}-{request}")
                time.sleep(luck.random() * ROUND_S)  # where the kill falls is what is drawn
                with WITHOUT[victim](daemon, broker, proxy):
                    for request in range(before, REQUESTS):
                        ledger.ask(f"{number}-{request}")
                wait_until(lambda: not ledger.untold(), f"answers after the {victim} died in round {number}")
                for name in ledger.unanswered():  # the engine died over them, which is worth another attempt
                    ledger.ask(name)
                wait_until(
                    lambda: not ledger.unanswered(), f"answers at the second attempt of round {number}"
                )
                killed[victim] += 1
            assert daemon.status()["state"] == "ready"
        finally:
            daemon.stop()
    found = ledger.figures()
    for name, figure in found.items():
        record_property(name, figure)
    print(f"killed: {dict(killed)}; {found}")
    assert ledger.wrong() == []
    assert set(ledger.answers) == set(ledger.asked)


def test_while_the_engine_stands_still_the_broker_keeps_what_is_too_much(tmp_path, record_property):
    """Nothing is acknowledged and then dropped; all of it is answered when the engine goes on."""
    tree = fake_tree(
        fake_model(tmp_path), model={"slots": 2}, limits={"queue": 8}, engine={"hang_timeout_s": 120}
    )

    async def scenario(daemon: Daemon, proxy: FaultProxy, broker: Broker) -> None:
        async with Peer(broker.port, f"{BASE}/response/#", f"{BASE}/status", version="5") as peer:
            await until(lambda: "online" in peer.texts(f"{BASE}/status"), "online")

            def told() -> dict[str, bool]:
                """Request → whether it was answered; refusals count as not."""
                found: dict[str, bool] = {}
                for one in peer.documents(f"{BASE}/response/me/chat"):
                    found[one["id"]] = found.get(one["id"], False) or one["ok"]
                return found

            worker, capacity = daemon.status()["worker_pid"], daemon.status()["capacity"]
            os.kill(worker, signal.SIGSTOP)
            try:
                for number in range(500):
                    peer.send(f"{BASE}/request/me/chat", {"id": str(number), "prompt": "x"})
                await until(lambda: proxy.messages >= capacity, "as many as the box takes")
                await until(lambda: daemon.status()["queue"] + daemon.status()["running"] == capacity)
                await asyncio.sleep(1)  # what more would come, comes within this second
                assert proxy.most_unacknowledged <= capacity
                assert told() == {}
            finally:
                os.kill(worker, signal.SIGCONT)
            await until(lambda: len(told()) == 500, "each is answered", 90)
            refused = {name for name, ok in told().items() if not ok}
            record_property("refused_once", len(refused))
            for name in refused:  # "busy" says to come back, so it does
                peer.send(f"{BASE}/request/me/chat", {"id": name, "prompt": "x"})
                await until(lambda name=name: told()[name], f"an answer to {name}")
            assert all(told().values())
            assert daemon.pid
            print(f"refused once: {len(refused)}, unacknowledged at most: {proxy.most_unacknowledged}")

    with (
        Broker(tmp_path, "allow_anonymous true", "max_queued_messages 0") as broker,
        FaultProxy(broker.port) as proxy,
    ):
        tree["mqtt"] = {"enabled": True, "port": proxy.port}
        daemon = Daemon(tree, tmp_path).start()
        try:
            asyncio.run(scenario(daemon, proxy, broker))
        finally:
            daemon.stop()


def test_a_box_without_a_broker_serves_over_http_says_so_and_does_next_to_nothing(tmp_path, record_property):
    tree = fake_tree(fake_model(tmp_path), mqtt={"enabled": True, "port": free_port()})
    window_s = float(os.environ.get("EDGED_TEST_WINDOW_S", "20"))  # the promise is for a minute, and for ever

    def cpu_s(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    daemon = Daemon(tree, tmp_path).start()
    try:
        assert daemon.chat("hello")[0] == 200
        condition = wait_until(
            lambda: next((one for one in daemon.status()["conditions"] if "refused" in one["message"]), None),
            "the condition",
        )
        assert condition["code"] == "mqtt_disconnected"
        before_s = cpu_s(daemon.pid)
        time.sleep(window_s)  # the measurement itself
        used = (cpu_s(daemon.pid) - before_s) / window_s
        record_property("cpu_share", round(used, 4))
        assert used < 0.01
        assert daemon.chat("hello")[0] == 200
        assert condition in daemon.status()["conditions"]
        assert daemon.log.count("cannot be reached") == 1, "said once, not at each attempt"
    finally:
        daemon.stop()
