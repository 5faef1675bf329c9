"""The MQTT transport against a real mosquitto, in both protocol versions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.config import Mqtt
from edged.api.errors import Busy, Draining
from edged.transports.mqtt import MqttTransport
from edged.transports.mqtt.codec import Body, max_payload_bytes
from edged.transports.mqtt.desk import SPARE_EXCHANGES
from edged.transports.mqtt.exchange import MAX_PLACES
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

ROOT = "edged/box"
VERSIONS = ("5", "3.1.1")


@pytest.fixture
def broker(tmp_path):
    with Broker(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def serving(port, service, *, connect=True, node="box", **config):
    """A transport that is connected; it waits no time between attempts."""
    transport = MqttTransport(
        Mqtt(port=port, **config), node, service, uniform=lambda _low, high: min(high, 0.1)
    )
    await transport.start()
    try:
        if connect:
            await until(lambda: transport.connected, "the transport connected")
        yield transport
    finally:
        await transport.stop()


@contextlib.asynccontextmanager
async def answering(broker, *, version="5", service=None, **config):
    """A connected transport and a peer that hears everything of the node."""
    service = service or ScriptedService()
    async with (
        serving(broker.port, service, version=version, **config) as transport,
        Peer(broker.port, "#", version=version) as peer,
    ):
        await until(lambda: "online" in peer.texts(f"{ROOT}/status"), "online")
        yield service, transport, peer


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chat_is_accepted_streamed_and_answered_once(broker, version):
    async def scenario():
        async with answering(broker, version=version) as (service, _, peer):
            peer.send(
                f"{ROOT}/request/esp/chat", {"id": "7", "prompt": "hi", "stream": True, "max_tokens": 9}
            )
            (answer,) = await peer.wait(f"{ROOT}/response/esp/chat")
            assert answer == {
                "id": "7", "ok": True, "part": 1, "parts": 1, "text": "echo: hi", "finish": "stop",
                "usage": {"prompt_tokens": 3, "completion_tokens": 7, "cached_tokens": 0},
                "t_queue_ms": 0, "t_first_ms": 13, "t_total_ms": 20,
            }  # fmt: skip
            stream = await peer.wait(f"{ROOT}/stream/esp", 3)
            assert stream[0] == {"kind": "accepted", "id": "7", "position": 0, "eta_s": 1.5}
            assert "".join(one["delta"] for one in stream[1:]) == "echo: hi"
            assert [one["seq"] for one in stream[1:]] == list(range(len(stream) - 1))
            assert stream[-1]["done"] is True
            assert service.seen[0].max_tokens == 9
            assert not any(message.retain for message in peer.on(f"{ROOT}/response/esp/chat"))

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_plain_text_is_answered_in_plain_text(broker, version):
    async def scenario():
        async with answering(broker, version=version) as (service, _, peer):
            peer.send(f"{ROOT}/ask", "is it räining?")
            await until(lambda: peer.texts(f"{ROOT}/answer") == ["echo: is it räining?"])
            service.refusal = Busy("the queue\nis full", retry_after_s=3)
            peer.send(f"{ROOT}/ask", "and now?")
            await until(lambda: "error: busy: the queue is full" in peer.texts(f"{ROOT}/answer"))
            peer.send(f"{ROOT}/ask", b"\xff\xfe")
            await until(
                lambda: any(t.startswith("error: bad_request: ") for t in peer.texts(f"{ROOT}/answer"))
            )

    asyncio.run(scenario())


def test_presence_follows_the_model_and_the_connection(broker):
    async def scenario():
        service = ScriptedService()
        service.ready = False
        async with Peer(broker.port, "#") as peer:
            async with serving(broker.port, service) as transport:
                await until(lambda: peer.texts(f"{ROOT}/status") == ["offline"], "offline while loading")
                await peer.wait(f"{ROOT}/health")
                assert peer.documents(f"{ROOT}/health")[0]["state"] == "loading"
                service.ready = True
                transport.service_changed()
                await until(lambda: peer.texts(f"{ROOT}/status") == ["offline", "online"])
                (info,) = await peer.wait(f"{ROOT}/info")
                assert info["limits"]["max_prompt_tokens"] == 448
            assert transport.connected is False
            await until(lambda: peer.texts(f"{ROOT}/status")[-1] == "offline", "offline after a clean stop")
        async with Peer(broker.port, "#") as late:
            await until(lambda: late.texts(f"{ROOT}/status") == ["offline"], "status is retained")
            await until(lambda: late.on(f"{ROOT}/info"), "info is retained")
            assert late.on(f"{ROOT}/info")[0].retain

    asyncio.run(scenario())


def test_health_goes_on_after_a_figure_could_not_be_read(broker, caplog):
    class Faltering(ScriptedService):
        broken = True

        def status(self):
            if self.broken:
                raise OSError(19, "No such device")
            return super().status()

    async def scenario():
        async with answering(broker, service=Faltering()) as (service, _, peer):
            await until(lambda: "health cannot be told" in caplog.text)
            service.broken = False
            assert (await peer.wait(f"{ROOT}/health"))[0]["state"] == "ok"

    asyncio.run(scenario())


def test_an_unclean_end_is_told_by_the_will(broker):
    async def scenario():
        async with answering(broker) as (_, transport, peer):
            transport._line.connection.abandon("pulled the plug")
            await until(lambda: peer.texts(f"{ROOT}/status")[:2] == ["online", "offline"], "the will")
            await until(lambda: peer.texts(f"{ROOT}/status")[-1] == "online", "back by itself")

    asyncio.run(scenario())


def test_answers_go_to_the_response_topic_with_the_correlation_data_and_to_the_ordinary_topic(broker):
    async def scenario():
        async with answering(broker, reply_prefixes=("app/replies",)) as (_, _, peer):
            peer.send(
                f"{ROOT}/request/me/chat", {"prompt": "x"},
                ResponseTopic="app/replies/1", CorrelationData=b"\x00\x01",
            )  # fmt: skip
            (there,) = await peer.wait("app/replies/1")
            (ordinary,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert there == ordinary
            assert there["id"].startswith("auto-")
            assert peer.on("app/replies/1")[0].properties.CorrelationData == b"\x00\x01"
            assert not hasattr(peer.on("app/replies/1")[0].properties, "ResponseTopic")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "target", ["$SYS/x", "a/+", "a/#", "other/topic", f"{ROOT}/request/x/chat", f"{ROOT}/response/you/chat"]
)
def test_answers_cannot_be_aimed_elsewhere(broker, target, caplog):
    async def scenario():
        async with answering(broker, reply_prefixes=("app", "edged")) as (service, _, peer):
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x", "reply_to": target})
            (refused,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert refused["ok"] is False
            assert refused["error"]["code"] == "bad_request"
            assert refused["error"]["message"].startswith("reply_to: ")
            assert refused["id"] == "1"
            if "+" not in target and "#" not in target:  # such a publication does not leave a client
                peer.send(f"{ROOT}/request/me/chat", {"id": "2", "prompt": "x"}, ResponseTopic=target)
                _, second = await peer.wait(f"{ROOT}/response/me/chat", 2)
                assert second["error"]["message"].startswith("response topic: ")
            assert service.seen == []
            assert {m.topic for m in peer.heard if m.topic == target and m.topic.startswith("other")} == set()

    asyncio.run(scenario())
    assert "refused client=me op=chat id=1: bad_request: reply_to: " in caplog.text


def test_mosquitto_rr_works_without_a_setting(broker):
    async def scenario():
        async with answering(broker):
            process = await asyncio.create_subprocess_exec(
                "mosquitto_rr", "-p", str(broker.port), "-V", "5", "-W", "10", "-q", "1",
                "-t", f"{ROOT}/request/me/chat", "-e", f"{ROOT}/response/me/chat",
                "-m", '{"prompt": "hello", "stream": true}',
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await asyncio.wait_for(process.communicate(), 15)
            assert json.loads(out)["text"] == "echo: hello"

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("payload", "request_id", "needle"),
    [
        (b"{", None, "not JSON"),
        (
            b'{"id":"3","prompt":"x","max_token":4}',
            "3",
            "max_token: there is no such field; did you mean max_tokens?",
        ),
        (b'{"id":"3","prompt":"x","max_tokens":"4"}', "3", "max_tokens: expected"),
        (b'{"id":"3","prompt":"x","temperature":NaN}', None, "not JSON"),
        (b'{"id":"3","prompt":"\xff"}', "3", "not UTF-8"),
        (b'{"id":"3","messages":' + b"[" * 30000, None, "messages"),
        (b'{"id":"a b","prompt":"x"}', None, "id: "),
        (b'{"id":"3","prompt":"x","temperature":9}', "3", "temperature: must be between 0 and 5"),
    ],
)
def test_a_broken_request_gets_one_answer_and_is_acknowledged(broker, version, payload, request_id, needle):
    async def scenario():
        async with answering(broker, version=version) as (_, _, peer):
            peer.send(f"{ROOT}/request/me/chat", payload)
            peer.send(f"{ROOT}/request/me/chat", {"id": "good", "prompt": "x"})
            refused, good = await peer.wait(f"{ROOT}/response/me/chat", 2)
            if refused["ok"]:
                refused, good = good, refused
            assert (refused["ok"], refused["error"]["code"]) == (False, "bad_request")
            assert needle in refused["error"]["message"]
            assert refused["id"] == request_id
            assert good["ok"]
        # Had it not been acknowledged, the next run of the same session would get it again.
        async with Peer(broker.port, "#") as peer, serving(broker.port, ScriptedService()) as _:
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
            peer.send(f"{ROOT}/request/me/chat", {"id": "last", "prompt": "x"})
            answers = await peer.wait(f"{ROOT}/response/me/chat")
            assert [one["id"] for one in answers] == ["last"]

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_whatever_the_bytes_are_each_message_gets_one_answer_and_the_box_goes_on(broker, version):
    """What hypothesis makes of JSON, and good requests with bytes changed, cut and repeated."""
    good = json.dumps(
        {"id": "1", "prompt": "hö", "max_tokens": 4, "stop": ["a"], "choices": ["x", "y"]}
    ).encode()
    luck = random.Random(20261122)
    sent: list[bytes] = []

    @settings(max_examples=120, database=None, derandomize=True)
    @given(payloads())
    def collect(payload):
        sent.append(payload)

    collect()
    for _ in range(120):
        cut = luck.randrange(len(good))
        noise = bytes(luck.randrange(256) for _ in range(luck.randrange(1, 6)))
        sent.append(good[:cut] + noise + good[luck.randrange(len(good)) :])

    async def scenario():
        async with answering(broker, version=version) as (_, mqtt, peer):
            for number, payload in enumerate(sent):
                peer.send(f"{ROOT}/request/c{number}/chat", payload)
            await until(
                lambda: all(peer.on(f"{ROOT}/response/c{number}/chat") for number in range(len(sent))),
                "an answer to each", 60,
            )  # fmt: skip
            for number, payload in enumerate(sent):
                (said,) = peer.documents(f"{ROOT}/response/c{number}/chat")
                assert said["ok"] or said["error"]["code"] in {"bad_request", "too_large"}, (payload, said)
                assert said["ok"] or said["error"]["message"].isprintable(), (payload, said)
            peer.send(f"{ROOT}/request/me/chat", {"id": "good", "prompt": "x"})
            assert (await peer.wait(f"{ROOT}/response/me/chat"))[0]["ok"]
            assert mqtt.connected

    asyncio.run(scenario())


def payloads():
    """Bytes; JSON of any shape; objects that have the names of fields and the wrong values."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    trees = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    )
    fields = st.dictionaries(st.sampled_from([*Body.__struct_fields__, "x"]), trees, max_size=6)
    return st.binary(max_size=200) | (trees | fields).map(lambda tree: json.dumps(tree).encode())


@pytest.mark.parametrize("version", VERSIONS)
def test_ten_megabytes_are_refused_with_an_answer_and_the_next_request_is_answered(broker, version):
    async def scenario():
        async with answering(broker, version=version) as (_, _, peer):
            peer.send(f"{ROOT}/request/me/chat", b'{"id":"1","prompt":"' + b"x" * 10_000_000 + b'"}')
            (refused,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert refused["error"]["code"] == "too_large"
            peer.send(f"{ROOT}/ask", b"x" * 10_000_000)
            await until(lambda: peer.texts(f"{ROOT}/answer"), "the refusal of the ask")
            assert peer.texts(f"{ROOT}/answer")[0].startswith("error: too_large: ")
            peer.send(f"{ROOT}/request/me/chat", {"id": "2", "prompt": "hello"})
            assert (await peer.wait(f"{ROOT}/response/me/chat", 2))[1]["ok"]

    asyncio.run(scenario())


def test_too_large_is_said_before_anything_is_parsed(broker):
    async def scenario():
        async with answering(broker) as (service, _, peer):
            prompt = b"x" * max_payload_bytes(service.limits)
            peer.send(f"{ROOT}/request/me/chat", b'{"id":"1","prompt":"' + prompt + b'"}')
            (refused,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert refused["error"]["code"] == "too_large"
            assert service.seen == []

    asyncio.run(scenario())


def test_long_answers_come_in_parts_that_fit(broker):
    async def scenario():
        service = ScriptedService()
        service.answer = 'Grüße 🙂 "quoted"\n' * 40
        async with answering(broker, service=service) as (_, _, peer):
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x", "max_bytes": 200, "stream": True})
            first = (await peer.wait(f"{ROOT}/response/me/chat"))[0]
            parts = await peer.wait(f"{ROOT}/response/me/chat", first["parts"])
            assert first["parts"] > 5
            assert [part["part"] for part in parts] == list(range(1, first["parts"] + 1))
            assert "".join(part["text"] for part in parts) == service.answer
            assert parts[-1]["finish"] == "stop"
            everything = peer.on(f"{ROOT}/response/me/chat") + peer.on(f"{ROOT}/stream/me")
            assert max(len(message.payload) for message in everything) <= 200

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_repeated_id_is_computed_once(broker, version):
    async def scenario():
        async with answering(broker, version=version) as (service, _, peer):
            service.gate.clear()
            body = {"id": "1", "prompt": "same"}
            peer.send(f"{ROOT}/request/me/chat", body)
            await until(lambda: service.running)
            peer.send(f"{ROOT}/request/me/chat", body)
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "different"})
            (clash,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert clash["error"]["code"] == "bad_request"
            service.gate.set()
            await until(lambda: not service.running)
            peer.send(f"{ROOT}/request/me/chat", body)
            answers = await peer.wait(f"{ROOT}/response/me/chat", 3)
            assert [one.get("text") for one in answers] == [None, "echo: same", "echo: same"]
            assert len(service.seen) == 1
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "another"})
            await until(lambda: len(service.seen) == 2, "the same id with another prompt is a new request")

    asyncio.run(scenario())


def test_a_refusal_is_not_remembered(broker):
    async def scenario():
        async with answering(broker) as (service, _, peer):
            service.refusal = Busy("full", retry_after_s=2.0)
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x"})
            (busy,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert busy["error"] == {"code": "busy", "message": "full", "retry_after_s": 2.0}
            service.refusal = None
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x"})
            assert (await peer.wait(f"{ROOT}/response/me/chat", 2))[1]["ok"] is True

    asyncio.run(scenario())


def test_cancel_works_while_as_many_requests_wait_as_the_receive_maximum_allows(broker):
    async def scenario():
        async with answering(broker, service=ScriptedService(capacity=2)) as (service, _, peer):
            service.gate.clear()
            for number in range(2):
                peer.send(f"{ROOT}/request/me/chat", {"id": str(number), "prompt": "x"})
            await until(lambda: len(service.running) == 2)
            peer.send(f"{ROOT}/request/me/chat", {"id": "third", "prompt": "x"})
            peer.send(f"{ROOT}/cancel/me", "1")
            (gone,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert (gone["id"], gone["error"]["code"]) == ("1", "cancelled")
            await until(lambda: ("me", "third") in service.running, "the broker held it back until then")

    asyncio.run(scenario())


def test_the_broker_holds_back_what_exceeds_the_capacity(broker):
    async def scenario():
        async with answering(broker, service=ScriptedService(capacity=3)) as (service, _, peer):
            service.gate.clear()
            for number in range(40):
                peer.send(f"{ROOT}/request/me/chat", {"id": str(number), "prompt": "x"})
            peer.send(f"{ROOT}/request/me/chat", {"id": "qos0", "prompt": "x"}, qos=0)
            (refused,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert (refused["id"], refused["error"]["code"]) == ("qos0", "busy")
            assert [request.id for request in service.seen] == ["0", "1", "2", "qos0"]
            service.gate.set()
            # Once acknowledgements flow, mosquitto 2.0.11 sends more than the receive maximum: it may
            # deliver what has to be refused, but nothing goes without an answer.
            answers = await peer.wait(f"{ROOT}/response/me/chat", 41)
            assert {one["id"] for one in answers} == {"qos0", *map(str, range(40))}
            assert {one["error"]["code"] for one in answers if not one["ok"]} == {"busy"}

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_retained_requests_are_ignored(broker, version):
    async def scenario():
        async with Peer(broker.port, "#", version=version) as peer:
            peer.send(f"{ROOT}/request/me/chat", {"id": "old", "prompt": "x"}, retain=True)
            await peer.wait(f"{ROOT}/request/me/chat")
            service = ScriptedService()
            async with serving(broker.port, service, version=version):
                await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
                peer.send(f"{ROOT}/request/me/generate", {"id": "new", "prompt": "x"})
                await peer.wait(f"{ROOT}/response/me/generate")
                assert [request.id for request in service.seen] == ["new"]

    asyncio.run(scenario())


def test_message_expiry_bounds_the_time_to_live(broker):
    async def scenario():
        async with answering(broker) as (service, _, peer):
            peer.send(f"{ROOT}/request/me/chat", {"prompt": "x", "ttl_s": 90}, MessageExpiryInterval=20)
            peer.send(f"{ROOT}/request/me/chat", {"prompt": "x", "ttl_s": 5}, MessageExpiryInterval=20)
            await peer.wait(f"{ROOT}/response/me/chat", 2)
            assert [request.ttl_s for request in service.seen] == [20.0, 5.0]

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_is_acknowledged_on_the_new_connection_when_the_old_one_died(broker, version):
    async def scenario():
        async with answering(broker, version=version) as (service, transport, peer):
            service.gate.clear()
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x"})
            peer.send(f"{ROOT}/ask", "plain")
            await until(lambda: len(service.running) == 2)
            first = transport._line.connection
            first.abandon("cable pulled")
            await until(lambda: transport.connected and transport._line.connection is not first)
            running = tuple(transport._desk._running.values())
            await until(lambda: all(len(one.receipts) == 1 for one in running), "redelivered and attached")
            service.gate.set()
            await peer.wait(f"{ROOT}/response/me/chat")
            await until(lambda: peer.on(f"{ROOT}/answer"))
            assert len(service.seen) == 2
            await until(lambda: transport._desk.busy == 0)
            transport._line.connection.abandon("again")  # anything not acknowledged would come once more
            await until(lambda: transport.connected)
            peer.send(f"{ROOT}/request/me/chat", {"id": "2", "prompt": "x"})
            answers = await peer.wait(f"{ROOT}/response/me/chat", 2)
            assert [one["id"] for one in answers] == ["1", "2"]
            assert len(service.seen) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_killed_daemon_loses_no_request(broker, version):
    async def scenario():
        async with Peer(broker.port, "#", version=version) as peer:
            stuck = ScriptedService()
            stuck.gate.clear()
            async with serving(broker.port, stuck, version=version) as doomed:
                peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x"})
                await until(lambda: stuck.running)
                doomed._task.cancel()  # as SIGKILL leaves it: no DISCONNECT, no acknowledgement
                await until(lambda: not doomed.connected)
            async with serving(broker.port, ScriptedService(), version=version):
                (answer,) = await peer.wait(f"{ROOT}/response/me/chat")
                assert answer["ok"] is True

    asyncio.run(scenario())


def test_a_stop_leaves_what_it_could_not_answer_to_the_next_run(broker):
    async def scenario():
        async with Peer(broker.port, "#") as peer:
            leaving = ScriptedService()
            async with serving(broker.port, leaving) as transport:
                await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
                await transport.drain()
                await until(lambda: peer.texts(f"{ROOT}/status")[-1] == "offline")
                peer.send(f"{ROOT}/request/me/chat", {"id": "late", "prompt": "x"})
                peer.send(f"{ROOT}/request/me/chat", {"id": "qos0", "prompt": "x"}, qos=0)
                (refused,) = await peer.wait(f"{ROOT}/response/me/chat")
                assert (refused["id"], refused["error"]["code"]) == ("qos0", "loading")
                assert leaving.seen == []
            assert "online" not in peer.texts(f"{ROOT}/status")[-1]
            refusing = ScriptedService()
            refusing.refusal = Draining("the daemon is stopping")
            async with serving(broker.port, refusing):
                await until(lambda: refusing.seen, "accepted, then failed by the stop")
            async with serving(broker.port, ScriptedService()):
                assert (await peer.wait(f"{ROOT}/response/me/chat", 2))[1]["id"] == "late"

    asyncio.run(scenario())


def test_a_defect_of_the_service_is_answered_and_not_fatal(broker, caplog):
    async def scenario():
        async with answering(broker) as (service, _, peer):
            service.defect = ZeroDivisionError("boom")
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "SECRET-PROMPT"})
            (failed,) = await peer.wait(f"{ROOT}/response/me/chat")
            assert failed["error"]["code"] == "internal"
            service.defect = None
            peer.send(f"{ROOT}/request/me/chat", {"id": "2", "prompt": "SECRET-PROMPT"})
            assert (await peer.wait(f"{ROOT}/response/me/chat", 2))[1]["ok"]

    with caplog.at_level("DEBUG"):
        asyncio.run(scenario())
    assert "SECRET-PROMPT" not in caplog.text


def test_a_flood_is_bounded_quiet_and_survived(broker, caplog):
    async def scenario():
        async with answering(broker, service=ScriptedService(capacity=4)) as (service, mqtt, peer):
            service.gate.clear()
            most = 0
            for number in range(3000):
                body = {"id": str(number), "prompt": "x"} if number % 2 else {"id": str(number), "bogus": 1}
                peer.send(f"{ROOT}/request/me/chat", body, qos=0)
            for _ in range(200):
                most = max(most, mqtt._desk.busy)
                await asyncio.sleep(0.005)
            assert most > 4
            service.gate.set()
            for attempt in range(100):  # "busy" says to come back, so it does
                peer.send(f"{ROOT}/request/you/chat", {"id": str(attempt), "prompt": "x"})
                answers = await peer.wait(f"{ROOT}/response/you/chat", attempt + 1)
                if answers[-1]["ok"]:
                    break
            assert answers[-1]["ok"]
            assert most <= 4 + SPARE_EXCHANGES

    with caplog.at_level("INFO"):
        asyncio.run(scenario())
    assert len(caplog.records) < 300


def test_a_request_repeated_with_ever_new_reply_topics_is_refused(broker):
    async def scenario():
        async with answering(broker, reply_prefixes=("app",)) as (service, _, peer):
            service.gate.clear()
            for number in range(MAX_PLACES + 3):
                peer.send(
                    f"{ROOT}/request/me/chat",
                    {"id": "1", "prompt": "x"},
                    ResponseTopic=f"app/{number}",
                    qos=0,
                )
            refused = (await peer.wait(f"{ROOT}/response/me/chat"))[0]
            assert refused["error"]["code"] == "busy"
            service.gate.set()
            await until(lambda: peer.on("app/3"))
            assert len(service.seen) == 1

    asyncio.run(scenario())
