"""Boxes that share the work of a pool, on a real mosquitto; each box answers from a scripted service."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from msgspec import structs

from edgectl.client import EdgeClient
from edged.api.config import Mqtt, Pool
from edged.transports.mqtt import MqttTransport
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import MODEL, ScriptedService

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

ROOT = "edged/pool"
ASKED = f"{ROOT}/request/esp/chat"
ANSWERED = f"{ROOT}/response/esp/chat"


def cut(transport):
    """Break its connection to the pool without a word, and let no other come about; ``mend`` ends that."""
    transport._config = structs.replace(transport._config, port=1)
    transport._pool._line.connection.abandon("cut")


def mend(transport, broker):
    transport._config = structs.replace(transport._config, port=broker.port)


class Box(ScriptedService):
    """A service whose model has a name and a context, and which tells when it has a free slot."""

    def __init__(self, model: str = "fake-1b", context: int = 512, features: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._features = features
        self.model = structs.replace(MODEL, name=model, context_tokens=context)
        self.changed = lambda: None

    async def submit(self, request):
        async for event in super().submit(request):
            yield event
        self.changed()

    def info(self):
        info = super().info()
        return structs.replace(info, model=self.model, features=(*info.features, *self._features))


@pytest.fixture
def broker(tmp_path):
    with Broker(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def member(broker, node, service=None, **config):
    """A box of the pool."""
    service = service or Box()
    transport = MqttTransport(
        Mqtt(port=broker.port, **config), node, service,
        pool=Pool(enabled=True), uniform=lambda _low, high: min(high, 0.1),
    )  # fmt: skip
    service.changed = transport.service_changed
    await transport.start()
    try:
        await until(lambda: transport.pool.state != "offline", f"{node} joined")
        yield service, transport
    finally:
        await transport.stop()


@contextlib.asynccontextmanager
async def pool(broker, *services, version="5"):
    """Boxes a, b, c ... who know each other, and a peer that hears what devices hear."""
    async with contextlib.AsyncExitStack() as stack:
        names = [chr(ord("a") + place) for place in range(len(services))]
        transports = [
            (await stack.enter_async_context(member(broker, name, service)))[1]
            for name, service in zip(names, services, strict=True)
        ]
        serving = sum(service.ready for service in services)
        for transport, service in zip(transports, services, strict=True):
            known = serving - service.ready
            await until(lambda t=transport, n=known: t.pool.boxes == n, "the boxes know each other")
        filters = (f"{ROOT}/response/#", f"{ROOT}/stream/#", f"{ROOT}/answer", f"{ROOT}/box/+")
        peer = await stack.enter_async_context(Peer(broker.port, *filters, version=version))
        yield transports, peer


def by(peer):
    """How many answers each box gave."""
    return Counter(answer["node"] for answer in peer.documents(ANSWERED))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_every_request_is_answered_by_one_box_which_says_so(broker, version):
    async def scenario():
        async with pool(broker, Box(), Box(), version=version) as (_, peer):
            for number in range(20):
                peer.send(ASKED, {"id": str(number), "prompt": f"q{number}"})
            answers = await peer.wait(ANSWERED, 20)
            assert {one["id"]: one["text"] for one in answers} == {str(n): f"echo: q{n}" for n in range(20)}
            assert len(answers) == 20
            assert set(by(peer)) == {"a", "b"}

    asyncio.run(scenario())


def test_the_client_asks_a_pool_by_its_name_as_it_asks_a_box(broker):
    def ask():
        with EdgeClient(f"mqtt://127.0.0.1:{broker.port}/{ROOT}") as client:
            return client.generate("is it raining?").text, "".join(client.stream("and now?"))

    async def scenario():
        async with pool(broker, Box(), Box()):
            assert await asyncio.to_thread(ask) == ("echo: is it raining?", "echo: and now?")

    asyncio.run(scenario())


def test_plain_text_goes_to_one_box(broker):
    async def scenario():
        async with pool(broker, Box(), Box()) as (_, peer):
            peer.send(f"{ROOT}/ask", "is it raining?")
            await until(lambda: peer.texts(f"{ROOT}/answer") == ["echo: is it raining?"])

    asyncio.run(scenario())


def test_nothing_waits_at_a_busy_box_while_another_is_free(broker):
    async def scenario():
        slow = Box()
        slow.gate.clear()  # what it has begun it never ends
        async with pool(broker, slow, Box()) as ((at_slow, _), peer):
            for number in range(40):
                peer.send(ASKED, {"id": str(number), "prompt": "q"})
            await peer.wait(ANSWERED, 38)
            assert by(peer) == {"b": 38}
            await until(lambda: at_slow.pool.waiting == 0)
            assert len(slow.running) == MODEL.slots
            slow.gate.set()
            assert len({one["id"] for one in await peer.wait(ANSWERED, 40)}) == 40

    asyncio.run(scenario())


@pytest.mark.parametrize("qos", [0, 1])
def test_who_listens_to_everything_costs_no_request(broker, qos):
    """A person who watches the bus is subscribed to all that boxes say to each other."""

    async def scenario():
        slow = Box()
        slow.gate.clear()
        async with (
            Peer(broker.port, "#"),
            Peer(broker.port, "edged/#", version="3.1.1"),
            pool(broker, slow, Box(), Box()) as (_, peer),
        ):
            for number in range(60):
                peer.send(ASKED, {"id": str(number), "prompt": "q"}, qos=qos)
            await peer.wait(ANSWERED, 58)
            slow.gate.set()
            assert len({one["id"] for one in await peer.wait(ANSWERED, 60)}) == 60

    asyncio.run(scenario())


def test_a_box_that_becomes_free_fetches_what_waits_elsewhere(broker):
    async def scenario():
        first, second = Box(), Box()
        first.gate.clear()
        second.gate.clear()
        async with pool(broker, first, second) as (transports, peer):
            for number in range(30):
                peer.send(ASKED, {"id": str(number), "prompt": "q"})
            await until(lambda: len(first.running) == len(second.running) == MODEL.slots)
            await until(lambda: sum(one.pool.waiting for one in transports) == 26, "all others wait")
            second.gate.set()
            await peer.wait(ANSWERED, 28)
            assert by(peer) == {"b": 28}
            first.gate.set()
            await peer.wait(ANSWERED, 30)

    asyncio.run(scenario())


def test_a_box_that_stops_takes_nothing_new_and_leaves_nothing_behind(broker):
    async def scenario():
        stopping, staying = Box(), Box()
        stopping.gate.clear()
        async with pool(broker, staying) as (_, peer):
            async with member(broker, "z", stopping) as (_, transport):
                await until(lambda: transport.pool.boxes == 1)
                for number in range(20):
                    peer.send(ASKED, {"id": str(number), "prompt": "q"})
                await peer.wait(ANSWERED, 18)
                await transport.drain()
                for number in range(20, 30):
                    peer.send(ASKED, {"id": str(number), "prompt": "q"})
                await peer.wait(ANSWERED, 28)
                assert by(peer) == {"a": 28}
                stopping.gate.set()
                await peer.wait(ANSWERED, 30)
            await until(lambda: peer.on(f"{ROOT}/box/z")[-1].payload == b"")
            for number in range(30, 40):
                peer.send(ASKED, {"id": str(number), "prompt": "q"})
            assert len({one["id"] for one in await peer.wait(ANSWERED, 40)}) == 40

    asyncio.run(scenario())


def test_what_is_handed_on_to_a_box_that_has_just_stopped_is_answered_by_its_heir(broker):
    """Whoever hands it on has older news, and somebody who watches the bus makes it look taken."""

    async def scenario():
        staying = Box()
        async with Peer(broker.port, "#") as watcher, pool(broker, staying) as ((heir,), peer):
            async with member(broker, "z") as (_, stopping):
                await until(lambda: stopping.pool.boxes == heir.pool.boxes == 1)
                await stopping.drain()
            staying.ready = False  # nobody inherits before the request is there
            handed = f"{ROOT}/give/z/request/esp/chat"
            peer.send(handed, {"id": "late", "prompt": "q"})
            await watcher.wait(handed)
            assert peer.on(f"{ROOT}/box/z")[-1].payload
            assert heir.pool.taken_over == 0
            staying.ready = True
            answers = await peer.wait(ANSWERED)
            assert [one["id"] for one in answers] == ["late"]
            assert heir.pool.taken_over == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("model", ["fake-1b", "fake-2b"])
def test_a_box_that_comes_back_or_has_another_model_calls_for_work_unasked(broker, model):
    async def scenario():
        box = Box()
        async with Peer(broker.port, f"{ROOT}/free/+") as watcher, pool(broker, box, Box()) as ((one, _), _):

            def calls():
                kind = one._pool._work.can.kind
                return watcher.texts(f"{ROOT}/free/{kind}").count("a")

            await until(lambda: calls() == MODEL.slots)
            if model == box.model.name:
                cut(one)
                mend(one, broker)
                await until(lambda: calls() == 2 * MODEL.slots, "it calls again")
            else:
                box.model = structs.replace(box.model, name=model)
                box.changed()
                await until(lambda: calls() == MODEL.slots, "it calls boxes of its new kind")

    asyncio.run(scenario())


def test_what_a_box_was_cut_off_from_is_answered_by_its_heir_once(broker):
    async def scenario():
        gone = Box()
        gone.gate.clear()
        async with pool(broker, Box()) as ((heir,), peer):
            async with member(broker, "b", gone) as (_, transport):
                await until(lambda: transport.pool.boxes == heir.pool.boxes == 1)
                for number in range(10):
                    peer.send(ASKED, {"id": str(number), "prompt": "q"})
                await peer.wait(ANSWERED, 8)
                cut(transport)
                answers = await peer.wait(ANSWERED, 10)
                assert by(peer) == {"a": 10}
                assert heir.pool.taken_over == 1
                gone.gate.set()
                mend(transport, broker)
                await until(lambda: transport.pool.boxes == heir.pool.boxes == 1, "it is back")
                peer.send(ASKED, {"id": "last", "prompt": "q"})
                await until(lambda: any(one["id"] == "last" for one in peer.documents(ANSWERED)))
            assert len(answers) == 10
            assert len(peer.documents(ANSWERED)) == 11, "the box that came back kept its answers to itself"

    asyncio.run(scenario())


def test_only_a_box_that_has_what_a_request_needs_answers_it(broker):
    async def scenario():
        boxes = Box(features=("thinking",)), Box("qwen3.5-4b", 4096), Box("qwen3.5-4b", 8192)
        async with pool(broker, *boxes) as (_, peer):
            for number in range(12):
                peer.send(ASKED, {"id": f"m{number}", "prompt": "q", "needs": {"model": "qwen3.5-4b"}})
                peer.send(ASKED, {"id": f"p{number}", "prompt": "q", "needs": {"params_b": 1.0}})
                peer.send(ASKED, {"id": f"c{number}", "prompt": "q", "needs": {"context": 8000}})
                peer.send(ASKED, {"id": f"t{number}", "prompt": "q", "needs": {"thinking": True}})
            answers = await peer.wait(ANSWERED, 48)
            assert all(one["ok"] for one in answers)
            nodes = {kind: {one["node"] for one in answers if one["id"][0] == kind} for kind in "mpct"}
            assert nodes["m"] <= {"b", "c"}
            assert nodes["c"] == {"c"}
            assert nodes["t"] == {"a"}
            assert nodes["p"] <= {"a", "b", "c"}

    asyncio.run(scenario())


def test_what_no_box_has_is_refused_at_once_and_what_an_absent_box_has_within_its_time(broker):
    async def scenario():
        away = Box("qwen3.5-4b")
        away.ready = False
        async with pool(broker, Box(), away) as ((here, absent), peer):
            await until(lambda: not absent._pool._filters, "it listens to nothing")
            peer.send(ASKED, {"id": "1", "prompt": "q", "ttl_s": 600, "needs": {"vision": True}})
            peer.send(ASKED, {"id": "2", "prompt": "q", "ttl_s": 2, "needs": {"model": "qwen3.5-4b"}})
            found = {one["id"]: one["error"]["code"] for one in await peer.wait(ANSWERED, 2)}
            assert found == {"1": "no_box", "2": "no_box"}
            peer.send(ASKED, {"id": "3", "prompt": "q", "needs": {"model": "qwen3.5-4b"}})
            await until(lambda: here.pool.waiting == 1)
            away.ready = True
            assert (await peer.wait(ANSWERED, 3))[-1]["node"] == "b"

    asyncio.run(scenario())


def test_a_single_box_refuses_what_it_does_not_have(broker):
    async def scenario():
        async with (
            member(broker, "a"),
            Peer(broker.port, "edged/a/response/#") as peer,
        ):
            peer.send("edged/a/request/esp/chat", {"id": "1", "prompt": "q", "needs": {"context": 100_000}})
            peer.send("edged/a/request/esp/chat", {"id": "2", "prompt": "q", "needs": {"colour": "red"}})
            found = {one["id"]: one["error"] for one in await peer.wait("edged/a/response/esp/chat", 2)}
            assert found["1"]["code"] == "no_box"
            assert found["2"]["code"] == "bad_request"
            assert "needs.colour" in found["2"]["message"]

    asyncio.run(scenario())


def test_a_box_that_is_alone_and_loads_lets_requests_wait(broker):
    async def scenario():
        loading = Box()
        loading.ready = False
        loading.gate.clear()
        async with pool(broker, loading) as ((only,), peer):
            for number in range(6):
                peer.send(ASKED, {"id": str(number), "prompt": "q"})
            await peer.wait(f"{ROOT}/stream/esp", 6)
            loading.ready = True
            loading.gate.set()
            assert len(await peer.wait(ANSWERED, 6)) == 6
            assert only.pool.waiting == 0

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def full(broker):
    """A pool of one box whose slots are all at work until its gate opens."""
    busy = Box()
    busy.gate.clear()
    async with pool(broker, busy) as ((only,), peer):
        for number in range(MODEL.slots):
            peer.send(ASKED, {"id": f"running{number}", "prompt": "q"})
        await until(lambda: len(busy.running) == MODEL.slots)
        yield busy, only, peer


def test_a_request_that_waits_can_be_cancelled_and_expires(broker):
    async def scenario():
        async with full(broker) as (busy, only, peer):
            peer.send(ASKED, {"id": "8", "prompt": "q"})
            peer.send(ASKED, {"id": "9", "prompt": "q", "ttl_s": 1})
            await until(lambda: only.pool.waiting == 2)
            peer.send(f"{ROOT}/cancel/esp", "8")
            found = {one["id"]: one["error"]["code"] for one in await peer.wait(ANSWERED, 2)}
            assert found == {"8": "cancelled", "9": "expired"}
            busy.gate.set()
            await peer.wait(ANSWERED, 4)

    asyncio.run(scenario())


def test_what_is_too_large_for_any_box_is_refused_while_all_are_busy_and_keeps_no_memory(broker):
    async def scenario():
        async with full(broker) as (busy, only, peer):
            for _ in range(4):
                peer.send(ASKED, b"x" * (4 << 20))
            assert {one["error"]["code"] for one in await peer.wait(ANSWERED, 4)} == {"too_large"}
            assert only.pool.waiting == 0
            busy.gate.set()
            await peer.wait(ANSWERED, 6)

    asyncio.run(scenario())


def test_what_has_no_room_at_a_box_stays_with_the_broker_and_is_answered_later(broker, monkeypatch):
    monkeypatch.setattr("edged.transports.mqtt.pool_backlog.MAX_COUNT", 3)

    async def scenario():
        busy = Box()
        busy.gate.clear()
        async with pool(broker, busy) as ((only,), peer):
            for number in range(10):
                peer.send(ASKED, {"id": str(number), "prompt": "q"})
            await until(lambda: len(busy.running) == MODEL.slots and only.pool.waiting == 3)
            peer.send(ASKED, {"id": "qos 0", "prompt": "q"}, qos=0)
            peer.send(ASKED, {"id": "qos0", "prompt": "q"}, qos=0)
            refused = await peer.wait(ANSWERED, 2)
            assert {one["error"]["code"] for one in refused} == {"busy"}
            busy.gate.set()
            answers = await until(
                lambda: (found := [one["id"] for one in peer.documents(ANSWERED) if one["ok"]])[9:] and found
            )
            assert sorted(answers) == list("0123456789")

    asyncio.run(scenario())


def test_the_time_to_live_counts_from_when_a_request_came_to_the_pool(broker):
    async def scenario():
        async with full(broker) as (busy, only, peer):
            peer.send(ASKED, {"id": "waits", "prompt": "q", "ttl_s": 30})
            await until(lambda: only.pool.waiting == 1)
            busy.gate.set()
            await peer.wait(ANSWERED, 3)
            assert busy.seen[-1].ttl_s < 30

    asyncio.run(scenario())


def test_what_boxes_say_of_themselves_does_not_keep_an_heir_waiting(broker):
    """A taken over session that hears of many boxes is as empty as any other."""

    async def scenario():
        async with pool(broker, Box()) as ((heir,), peer), member(broker, "b") as (_, gone):
            await until(lambda: gone.pool.boxes == heir.pool.boxes == 1)
            cut(gone)
            await until(lambda: heir._pool._heirs._tasks, "the heir connects")
            for number in range(400):  # one every 10 ms
                if not heir._pool._heirs._tasks:
                    break
                peer.send(f"{ROOT}/box/other", b"{}")
                peer.send(f"{ROOT}/cancel/esp", str(number))
                await asyncio.sleep(0.01)
            assert not heir._pool._heirs._tasks, "it ended while they came"

    asyncio.run(scenario())


def test_a_defect_that_keeps_a_box_out_of_its_pool_is_a_condition_until_it_is_over(broker, monkeypatch):
    def broken(self):
        raise ZeroDivisionError

    async def scenario():
        async with pool(broker, Box()) as ((only,), _):
            with monkeypatch.context() as patched:
                patched.setattr(Box, "info", broken)
                only.service_changed()
                await until(lambda: any("a defect of edged" in one.message for one in only.conditions()))
            await until(lambda: only.conditions() == [], "it is back")

    asyncio.run(scenario())


def test_a_broker_that_lets_nobody_hand_on_is_a_condition_and_the_box_does_the_work_itself(tmp_path):
    rules = tmp_path / "acl"
    open_to_all = ("request", "response", "stream", "box", "free", "spare")
    granted = [f"topic readwrite {ROOT}/{name}/#" for name in open_to_all]
    rules.write_text("\n".join([*granted, f"topic read {ROOT}/give/#", "topic readwrite edged/a/#", ""]))
    rules.chmod(0o644)

    async def scenario(broker):
        slow = Box()
        slow.gate.clear()
        async with pool(broker, slow, Box()) as ((at_slow, _), peer):
            for number in range(20):
                peer.send(ASKED, {"id": str(number), "prompt": "q"})
            found = await until(lambda: [one for one in at_slow.conditions() if "/give/b/" in one.message])
            assert found[0].code == "mqtt_refused"
            slow.gate.set()
            assert len({one["id"] for one in await peer.wait(ANSWERED, 20)}) == 20

    with Broker(tmp_path, "allow_anonymous true", f"acl_file {rules}") as broker:
        asyncio.run(scenario(broker))
