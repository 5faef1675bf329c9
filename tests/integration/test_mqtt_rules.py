"""Every rule of the MQTT interface by its name, on both versions, with a real mosquitto and a real service.

The engine is the scripted one: it answers ``echo: <prompt>``, a byte a token, one request at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable

import pytest
from msgspec import Struct, structs

from edged.api.config import Mqtt
from edged.transports.mqtt import MqttTransport
from edged.transports.mqtt.codec import max_payload_bytes
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.test_mqtt import ROOT, VERSIONS
from tests.kit.fault_proxy import FaultProxy
from tests.kit.service import Box, fake_model, fake_tree, long_text, running_service

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

ASK, ANSWER = f"{ROOT}/ask", f"{ROOT}/answer"
REQUEST, RESPONSE, STREAM = f"{ROOT}/request/me/chat", f"{ROOT}/response/me/chat", f"{ROOT}/stream/me"
SLOW = {"step_s": 0.02}  # an answer of twenty bytes takes 0.4 s


class Scene(Struct):
    """A box on a broker, and a device that hears everything."""

    version: str
    broker: Broker
    proxy: FaultProxy
    box: Box
    mqtt: MqttTransport
    peer: Peer

    async def said(self, name: str) -> dict:
        """The terminal message of request ``name``, of one part."""
        found = await until(
            lambda: [one for one in self.peer.documents(RESPONSE) if one["id"] == name], f"the answer {name}"
        )
        return found[0]

    async def ask(self, name: str, prompt: str = "x", **fields: object) -> dict:
        self.peer.send(REQUEST, {"id": name, "prompt": prompt, **fields})
        return await self.said(name)

    async def running(self, name: str) -> None:
        """``name`` is what the engine works on."""
        self.peer.send(REQUEST, {"id": name, "prompt": "a longer prompt " * 8, "stream": True})
        await until(
            lambda: [one for one in self.peer.documents(STREAM) if one["id"] == name and one.get("delta")],
            f"the first words of {name}",
        )


class Rule(Struct, frozen=True):
    """``shown`` raises when the rule does not hold. The rest is how the box and its broker are set up."""

    name: str
    shown: Callable[[Scene], Awaitable[None]]
    script: dict = {}
    mqtt: dict = {}
    sections: dict = {}
    broker: tuple[str, ...] = ()
    versions: tuple[str, ...] = VERSIONS


RULES: list[Rule] = []


def rule(name: str, **setup):
    def register(shown):
        RULES.append(Rule(name=name, shown=shown, **setup))
        return shown

    return register


@contextlib.asynccontextmanager
async def scene(one: Rule, version: str, folder):
    tree = fake_tree(
        fake_model(folder, **one.script),
        model={"slots": 1},
        limits={"queue": 2, "max_reply_bytes": 4096},
        templates={"door": {"system": "You watch a door."}},
    )
    for section, values in one.sections.items():
        tree.setdefault(section, {}).update(values)
    config = Mqtt(reply_prefixes=("app",), version=version, **one.mqtt)
    with (
        Broker(folder, "allow_anonymous true", *one.broker) as broker,
        FaultProxy(broker.port) as proxy,
    ):
        async with running_service(tree, folder / "state") as box:
            here = structs.replace(config, port=proxy.port)
            mqtt = MqttTransport(here, "box", box.service, uniform=lambda _low, high: min(high, 0.1))
            await box.ready()
            async with Peer(broker.port, "#", version=version) as peer:
                await mqtt.start()
                expiring = asyncio.create_task(expire_often(box))
                try:
                    await until(lambda: "online" in peer.texts(f"{ROOT}/status"), "online")
                    yield Scene(version, broker, proxy, box, mqtt, peer)
                finally:
                    expiring.cancel()
                    await mqtt.stop()


async def expire_often(box: Box) -> None:
    """What the daemon does once a second."""
    while True:
        box.service.expire()
        await asyncio.sleep(0.02)


def rules_and_versions():
    return [
        pytest.param(one, version, id=f"{one.name} [{version}]") for one in RULES for version in one.versions
    ]


# --- topics -----------------------------------------------------------------------------------


@rule("status, info and health are retained; status and info come at QoS 1, health at QoS 0")
async def _(s: Scene) -> None:
    async with Peer(s.broker.port, f"{ROOT}/+", version=s.version) as late:
        await until(
            lambda: {one.topic for one in late.heard} >= {f"{ROOT}/{n}" for n in ("status", "info", "health")}
        )
        kept = {one.topic.removeprefix(f"{ROOT}/"): one for one in late.heard}
        assert all(one.retain for one in kept.values())
        assert (kept["status"].qos, kept["info"].qos, kept["health"].qos) == (1, 1, 0)
        info, health = json.loads(kept["info"].payload), json.loads(kept["health"].payload)
        assert info["limits"]["max_reply_bytes"] == 4096
        assert {"node", "version", "model", "board", "features"} <= set(info)
        assert health["state"] == "ok"
        assert {"queue", "tok_s", "temp_c", "throttled", "mem", "conditions", "ts"} <= set(health)
        assert {"anon", "swap", "limit", "psi"} <= set(health["mem"])


@rule("answers come at QoS 1, the stream at QoS 0, and neither is retained")
async def _(s: Scene) -> None:
    await s.ask("1", stream=True)
    s.peer.send(ASK, "x")
    await until(lambda: s.peer.on(ANSWER))
    assert {(one.qos, one.retain) for one in (*s.peer.on(RESPONSE), *s.peer.on(ANSWER))} == {(1, False)}
    assert {(one.qos, one.retain) for one in s.peer.on(STREAM)} == {(0, False)}


@rule("plain text is asked and answered as it is, with the box's own template and token cap",
      mqtt={"ask_template": "door", "ask_max_tokens": 7})  # fmt: skip
async def _(s: Scene) -> None:
    s.peer.send(ASK, "is it räining?")
    await until(lambda: s.peer.texts(ANSWER))
    assert s.peer.texts(ANSWER) == ["echo: i"]  # a byte a token


@rule("generate takes a prompt as it is")
async def _(s: Scene) -> None:
    s.peer.send(f"{ROOT}/request/me/generate", {"id": "1", "prompt": "raw"})
    (answer,) = await s.peer.wait(f"{ROOT}/response/me/generate")
    assert (answer["ok"], answer["text"]) == (True, "echo: raw")


@rule("classify fits into 256 bytes", script={"answer": "shut"})
async def _(s: Scene) -> None:
    body = {"id": "1", "prompt": "How is the door?", "choices": ["open", "shut"], "max_bytes": 256}
    s.peer.send(f"{ROOT}/request/me/classify", body)
    (answer,) = await s.peer.wait(f"{ROOT}/response/me/classify")
    assert (answer["text"], answer["parts"]) == ("shut", 1)
    assert len(s.peer.on(f"{ROOT}/response/me/classify")[0].payload) <= 256


@rule("embed gives base64 of 32-bit floats, one string for each text",
      sections={"model": {"embeddings": True}})  # fmt: skip
async def _(s: Scene) -> None:
    s.peer.send(f"{ROOT}/request/me/embed", {"id": "1", "inputs": ["warm", "cold"]})
    (answer,) = await s.peer.wait(f"{ROOT}/response/me/embed")
    assert [len(base64.b64decode(one)) % 4 for one in answer["embeddings"]] == [0, 0]


@rule("a cancel ends what runs and what waits, whatever its QoS", script=SLOW)
async def _(s: Scene) -> None:
    await s.running("1")
    s.peer.send(REQUEST, {"id": "2", "prompt": "x"})
    s.peer.send(f"{ROOT}/cancel/me", "2", qos=1)
    assert (await s.said("2"))["error"]["code"] == "cancelled"
    s.peer.send(f"{ROOT}/cancel/me", "1", qos=0)
    assert (await s.said("1"))["error"]["code"] == "cancelled"


# --- what is said on the way ------------------------------------------------------------------


@rule("accepted comes at once, with the position in the queue and a time", script=SLOW)
async def _(s: Scene) -> None:
    await s.running("1")
    for name in ("2", "3"):
        s.peer.send(REQUEST, {"id": name, "prompt": "x"})
    accepted = await until(
        lambda: (
            [one for one in s.peer.documents(STREAM) if one["kind"] == "accepted"][2:]
            and s.peer.documents(STREAM)
        )
    )
    told = {one["id"]: one for one in accepted if one["kind"] == "accepted"}
    assert [told[name]["position"] for name in "123"] == [0, 0, 1]  # how many wait before it
    assert all(one["eta_s"] is None or one["eta_s"] >= 0 for one in told.values())
    assert not s.peer.on(RESPONSE)


@rule("the stream is numbered without a gap and joined it is the answer")
async def _(s: Scene) -> None:
    answer = await s.ask("1", prompt="höher 🙂 und weiter", stream=True)
    stream = await until(lambda: (found := s.peer.documents(STREAM)) and found[-1].get("done") and found)
    deltas = [one for one in stream if one["kind"] == "delta"]
    assert [one["seq"] for one in stream[1:]] == list(range(len(stream) - 1))
    assert "".join(one["delta"] for one in deltas) == answer["text"] == "echo: höher 🙂 und weiter"


@rule("what the queue does not hold is refused with busy and a time to come back", script=SLOW)
async def _(s: Scene) -> None:
    await s.running("1")
    for name in ("2", "3", "4"):  # at QoS 0, which the broker does not hold back
        s.peer.send(REQUEST, {"id": name, "prompt": "x"}, qos=0)
    refused = await s.said("4")
    assert refused["error"]["code"] == "busy"
    assert refused["error"]["retry_after_s"] > 0


@rule("the urgent is answered before the ordinary, and that before the background", script=SLOW)
async def _(s: Scene) -> None:
    await s.running("1")
    s.peer.send(REQUEST, {"id": "background", "prompt": "x", "priority": 0})
    s.peer.send(REQUEST, {"id": "urgent", "prompt": "x", "priority": 9})
    await s.said("background")
    assert [one["id"] for one in s.peer.documents(RESPONSE)] == ["1", "urgent", "background"]


@rule("what waited longer than ttl_s is dropped before the engine sees it", script=SLOW)
async def _(s: Scene) -> None:
    await s.running("1")
    late = await s.ask("2", ttl_s=0.05)
    assert late["error"]["code"] in {"expired", "busy"}  # already by the estimate, or when it was time
    assert (await s.said("1"))["ok"]


@rule("message expiry counts as ttl_s", script=SLOW, versions=("5",))
async def _(s: Scene) -> None:
    await s.running("1")
    s.peer.send(REQUEST, {"id": "2", "prompt": "x"}, MessageExpiryInterval=1)
    await s.running("3")  # takes longer than a second, together with the first
    assert (await s.said("2"))["error"]["code"] in {"expired", "busy"}


# --- sizes ------------------------------------------------------------------------------------


@rule("an answer larger than max_bytes comes in numbered parts that end between code points")
async def _(s: Scene) -> None:
    prompt = " ".join(f'{n} Grüße 🙂 "zitiert"\n' for n in range(12))
    s.peer.send(REQUEST, {"id": "1", "prompt": prompt, "max_bytes": 180, "max_tokens": 400})
    first = (await s.peer.wait(RESPONSE))[0]
    parts = await s.peer.wait(RESPONSE, first["parts"])
    assert [one["part"] for one in parts] == list(range(1, first["parts"] + 1))
    assert first["parts"] > 2
    assert "".join(one["text"] for one in parts) == f"echo: {prompt}"
    assert max(len(one.payload) for one in s.peer.on(RESPONSE)) <= 180
    assert parts[-1]["finish"] == "stop"


@rule("no reply is larger than limits.max_reply_bytes", sections={"limits": {"max_reply_bytes": 256}})
async def _(s: Scene) -> None:
    answer = await s.ask("1", prompt=long_text(600), max_tokens=700)
    assert answer["parts"] > 2
    assert max(len(one.payload) for one in s.peer.on(RESPONSE)) <= 256


@rule("no packet is larger than the broker takes, when it says so", broker=("max_packet_size 700",),
      versions=("5",))  # fmt: skip
async def _(s: Scene) -> None:
    assert s.mqtt._line.connection.max_packet_bytes == 700
    s.peer.send(REQUEST, {"id": "1", "prompt": long_text(600), "max_tokens": 700})
    first = (await s.peer.wait(RESPONSE))[0]
    parts = await s.peer.wait(RESPONSE, first["parts"])
    assert first["parts"] > 1
    assert "".join(one["text"] for one in parts) == f"echo: {long_text(600)}"


@rule("the size is judged before anything is parsed")
async def _(s: Scene) -> None:
    s.peer.send(REQUEST, b'{"id": "1", "prompt": "' + b"[" * max_payload_bytes(s.box.service.limits) + b'"')
    (refused,) = await s.peer.wait(RESPONSE)
    assert (refused["id"], refused["error"]["code"]) == (None, "too_large")


# --- where answers go -------------------------------------------------------------------------


@rule("on 5 the answer goes to the response topic with its correlation data, and to the ordinary topic",
      versions=("5",))  # fmt: skip
async def _(s: Scene) -> None:
    s.peer.send(REQUEST, {"prompt": "x"}, ResponseTopic="app/1", CorrelationData=b"\x00\x01")
    await s.peer.wait("app/1")
    await s.peer.wait(RESPONSE)
    assert {one.properties.CorrelationData for one in (*s.peer.on("app/1"), *s.peer.on(RESPONSE))} == {
        b"\x00\x01"
    }


@rule("the ordinary topic can be switched off where there is a response topic",
      mqtt={"ordinary_response": False}, versions=("5",))  # fmt: skip
async def _(s: Scene) -> None:
    s.peer.send(REQUEST, {"id": "1", "prompt": "x"}, ResponseTopic="app/1")
    await s.peer.wait("app/1")
    await s.ask("2")
    assert [one["id"] for one in s.peer.documents(RESPONSE)] == ["2"]


@rule("response topics can be switched off", mqtt={"response_topic": False}, versions=("5",))
async def _(s: Scene) -> None:
    s.peer.send(REQUEST, {"id": "1", "prompt": "x"}, ResponseTopic="app/1")
    await s.said("1")
    await s.ask("2")
    assert not s.peer.on("app/1")


@rule("on 3.1.1 the client segment and the id correlate", versions=("3.1.1",))
async def _(s: Scene) -> None:
    for client in ("me", "you"):
        s.peer.send(f"{ROOT}/request/{client}/chat", {"id": "1", "prompt": client})
    (theirs,) = await s.peer.wait(f"{ROOT}/response/you/chat")
    assert (theirs["id"], theirs["text"]) == ("1", "echo: you")
    assert (await s.said("1"))["text"] == "echo: me"


@rule("reply_to is one more place, only below a prefix that is configured")
async def _(s: Scene) -> None:
    await s.ask("1", reply_to="app/x")
    assert (await s.peer.wait("app/x"))[0]["id"] == "1"
    for number, target in enumerate(("other", "$SYS/x", "app/+", "app/#", f"{ROOT}/request/me/chat")):
        refused = await s.ask(f"bad{number}", reply_to=target)
        assert refused["error"]["message"].startswith("reply_to: ")
    assert {one.topic for one in s.peer.heard if not one.topic.startswith(ROOT)} == {"app/x"}


# --- delivery ---------------------------------------------------------------------------------


@rule("a request that was answered is answered again from memory, byte for byte")
async def _(s: Scene) -> None:
    first = await s.ask("1", prompt="once")
    worked = s.box.service.status().counters
    s.peer.send(REQUEST, {"id": "1", "prompt": "once"})
    assert (await s.peer.wait(RESPONSE, 2))[1] == first
    assert s.box.service.status().counters == worked


@rule("retained requests are ignored")
async def _(s: Scene) -> None:
    s.mqtt._line.connection.abandon("away for a moment")
    s.peer.send(f"{ROOT}/request/me/generate", {"id": "old", "prompt": "x"}, retain=True)
    await until(lambda: s.mqtt.connected)
    await s.ask("1")
    async with Peer(s.broker.port, "#", version=s.version) as late:
        await until(lambda: late.on(f"{ROOT}/request/me/generate"), "it is still retained")
    answered = s.peer.documents(f"{ROOT}/response/me/generate")
    assert len(answered) <= 1  # the live copy, were the connection back in time; never the retained one


@rule("a QoS 1 request is acknowledged behind its answer, on the connection that brought it", script=SLOW)
async def _(s: Scene) -> None:
    await s.running("1")
    assert s.proxy.unacknowledged == 1
    await s.said("1")
    await until(lambda: s.proxy.unacknowledged == 0, "the acknowledgement")


@rule("the client id is that of the node, and the session is kept")
async def _(s: Scene) -> None:
    level, clean = ("p5", "c0") if s.version == "5" else ("p2", "c0")
    assert f" as edged-box ({level}, {clean}, " in s.broker.log.read_text()
    s.proxy.cut()
    await until(lambda: len(s.proxy.connects) > 1 and s.mqtt.connected)
    assert len(set(s.proxy.connects)) == 1, "the same CONNECT each time"


@rule("the receive maximum is what admission holds, and the session expires after a day", versions=("5",))
async def _(s: Scene) -> None:
    (connect,) = s.proxy.connects
    assert b"\x21" + s.box.service.capacity.to_bytes(2) in connect
    assert b"\x11" + (86400).to_bytes(4) in connect


@rule("requests for a box that is cut off for a while wait at the broker")
async def _(s: Scene) -> None:
    s.proxy.refuse()
    await until(lambda: not s.mqtt.connected)
    s.peer.send(REQUEST, {"id": "1", "prompt": "x"})
    s.proxy.listen()
    assert (await s.said("1"))["ok"]


# --- what is refused --------------------------------------------------------------------------


@rule("an unknown field is refused with its name, and the nearest one")
async def _(s: Scene) -> None:
    refused = await s.ask("1", max_token=4)
    assert refused["error"]["code"] == "bad_request"
    assert refused["error"]["message"] == "max_token: there is no such field; did you mean max_tokens?"


@rule("an unknown operation is refused with those there are")
async def _(s: Scene) -> None:
    s.peer.send(f"{ROOT}/request/me/sing", {"id": "1", "prompt": "x"})
    (refused,) = await s.peer.wait(f"{ROOT}/response/me/sing")
    assert "chat, generate, classify, embed" in refused["error"]["message"]


@rule("a client segment that is no plain name is ignored")
async def _(s: Scene) -> None:
    s.peer.send(f"{ROOT}/request/a b/chat", {"id": "1", "prompt": "x"})
    await s.ask("2")
    assert not s.peer.on(f"{ROOT}/response/a b/chat")


@pytest.mark.parametrize(("one", "version"), rules_and_versions())
def test_rule(one, version, tmp_path, caplog):
    async def scenario():
        async with scene(one, version, tmp_path) as here:
            await one.shown(here)

    with caplog.at_level("DEBUG"):
        asyncio.run(scenario())
    assert "räining" not in caplog.text, "ids are logged, texts are not"
    assert "longer prompt" not in caplog.text
