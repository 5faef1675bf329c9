"""The examples of docs/mqtt.md: programs are run, and what devices would send is sent to a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import jinja2
import msgspec
import pytest
import yaml

from edged.transports.mqtt import codec
from edged.transports.mqtt.topics import RequestTopic, Topics
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import VERSIONS, serving

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "docs" / "examples"
ESPHOME = TOP / "build" / "tools" / "esphome" / "bin" / "esphome"
NODE = shutil.which("node")
NODE_ENV = {**os.environ, "NODE_PATH": "/usr/share/nodejs:/usr/lib/nodejs"}
BOX = Topics("edged", "pi")  # the box of all examples
QUESTION = 'What is "7 times 6"?\n'


def has_node_mqtt() -> bool:
    return bool(NODE) and subprocess.run(
        [NODE, "-e", 'require("mqtt")'], check=False, capture_output=True, env=NODE_ENV
    ).returncode == 0  # fmt: skip


needs_node = pytest.mark.skipif(not NODE, reason="node is not installed (Debian: nodejs)")
needs_node_mqtt = pytest.mark.skipif(
    not has_node_mqtt(), reason="node's MQTT client is not installed (Debian: node-mqtt)"
)


def program(name, command, *versions, marks=()):
    return [pytest.param(command, version, id=f"{name} {version}", marks=marks) for version in versions]


PROGRAMS = [
    *program("paho", [sys.executable, "paho_request.py"], *VERSIONS),
    *program("node", [NODE, "request.js"], *VERSIONS, marks=needs_node_mqtt),
    *program("mosquitto_rr", ["sh", "mosquitto_rr.sh"], *VERSIONS, "text"),
]


async def run(command, broker, version, question):
    """Status, standard output and standard error of a program that asks."""
    process = await asyncio.create_subprocess_exec(
        *command, "127.0.0.1", str(broker.port), BOX.root, version, question,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=EXAMPLES, env=NODE_ENV,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(("command", "version"), PROGRAMS)
def test_a_program_asks_and_prints_the_answer(tmp_path, command, version):
    async def scenario(broker):
        service = ScriptedService()
        service.answer = 'It is "42", nämlich 🙂.' * 100  # several parts where max_bytes is small
        async with serving(broker.port, service, node="pi"):
            status, out, err = await run(command, broker, version, QUESTION)
        assert status == 0, err
        said = json.loads(out)["text"] if out.startswith("{") else out.strip()
        assert said == service.answer
        assert service.seen[0].messages[-1].content.split() == QUESTION.split()

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


@pytest.mark.parametrize(("command", "version"), [one for one in PROGRAMS if "rr" not in one.id])
def test_a_program_tells_a_refusal(tmp_path, command, version):
    async def scenario(broker):
        async with serving(broker.port, ScriptedService(), node="pi"):
            return await run(command, broker, version, "x" * 5000)

    with Broker(tmp_path) as broker:
        status, _, err = asyncio.run(scenario(broker))
    assert status == 1
    assert "too_large" in err


def answers_to(tmp_path, *sent):
    """What a box answers to each (topic, payload), as the devices of the examples publish them."""

    async def scenario(broker):
        service = ScriptedService()
        async with (
            serving(broker.port, service, node="pi"),
            Peer(broker.port, "#", version="3.1.1") as device,
        ):
            found = []
            for topic, payload in sent:
                place = BOX.parse(topic)
                assert isinstance(place, RequestTopic), topic
                await until(lambda: "online" in device.texts(BOX.status))
                device.send(topic, payload, qos=0)
                answer_topic = BOX.response(place.client, place.op)
                await device.wait(answer_topic)
                found.append((answer_topic, device.on(answer_topic)[-1].payload))
            return found

    with Broker(tmp_path) as broker:
        return asyncio.run(scenario(broker))


# --- Home Assistant ---------------------------------------------------------------------------


def test_home_assistant_asks_and_reads_the_answer(tmp_path):
    package = yaml.safe_load((EXAMPLES / "home_assistant.yaml").read_text())
    ask, announce = package["automation"]
    assert set(ask) <= {"alias", "id", "mode", "triggers", "conditions", "actions"}
    render = jinja2.Environment(undefined=jinja2.StrictUndefined)
    render.filters["to_json"] = json.dumps
    words = {
        "context": {"id": "01ABC"},
        "now": lambda: datetime(2026, 11, 22, 18, 5),  # noqa: DTZ001 - as Home Assistant's local time
        "states": lambda _entity: "armed_away",
    }
    (action,) = ask["actions"]
    assert action["action"] == "mqtt.publish"
    payload = render.from_string(action["data"]["payload"]).render(words)
    assert "18:05" in json.loads(payload)["prompt"]
    ((topic, answer),) = answers_to(tmp_path, (action["data"]["topic"], payload))

    (trigger,) = announce["triggers"]
    assert trigger == {"trigger": "mqtt", "topic": topic}
    told = {"trigger": msgspec.convert({"payload_json": json.loads(answer)}, dict)}
    (condition,) = announce["conditions"]
    assert render.from_string(condition["value_template"]).render(told) == "True"
    (notify,) = announce["actions"]
    assert render.from_string(notify["data"]["message"]).render(told).startswith("echo: The doorbell rings")


# --- Tasmota ----------------------------------------------------------------------------------


def test_tasmota_asks_and_reads_the_verdict(tmp_path):
    lines = [
        line for line in (EXAMPLES / "tasmota.txt").read_text().splitlines() if line[:1] not in {"#", ""}
    ]
    subscribe, rule, switch_on = lines
    event, heard, key = subscribe.removeprefix("Subscribe ").split(", ")
    assert len(rule) <= 511, "the longest rule that Tasmota keeps"
    assert switch_on == "Rule1 1"
    # ON <trigger> DO <command> ENDON; a command is up to the next ENDON.
    parts = dict(re.findall(r"ON (\S+) DO (.*?) ENDON", rule))
    publish = parts.pop("Tele-SHT3X#Humidity").replace("%value%", "71.5")
    command, topic, payload = publish.split(" ", 2)
    assert command == "Publish"
    assert parts == {f"Event#{event}=on": "Power1 1", f"Event#{event}=off": "Power1 0"}
    choices = json.loads(payload)["choices"]
    assert {f"Event#{event}={choice}" for choice in choices} == set(parts)
    ((answered, answer),) = answers_to(tmp_path, (topic, payload))
    assert answered == heard
    assert key in json.loads(answer)
    assert len(answer) <= 512


# --- Node-RED ---------------------------------------------------------------------------------


@needs_node
def test_the_node_red_flow_asks_and_joins_the_answer(tmp_path):
    nodes = {node["id"]: node for node in json.loads((EXAMPLES / "node_red_flow.json").read_text())}
    wired = {target for node in nodes.values() for output in node.get("wires", ()) for target in output}
    assert wired <= set(nodes)
    assert all(
        nodes[node["broker"]]["type"] == "mqtt-broker" for node in nodes.values() if "mqtt " in node["type"]
    )

    def of_type(kind):
        return next(node for node in nodes.values() if node["type"] == kind)

    def function(name, message, kept):
        """(what the function node makes of a message, its context afterwards)."""
        code = next(node["func"] for node in nodes.values() if node.get("name") == name)
        program = """
            const [code, msg, kept] = JSON.parse(require("fs").readFileSync(0));
            const context = { get: (key) => kept[key], set: (key, value) => { kept[key] = value; } };
            const node = { warn: (text) => { throw new Error(text); } };
            const made = new Function("msg", "node", "context", code)(msg, node, context);
            console.log(JSON.stringify([made, kept]));
        """
        done = subprocess.run(
            [NODE, "-e", program],
            input=json.dumps([code, message, kept]),
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)

    assert [nodes[target]["name"] for target in of_type("inject")["wires"][0]] == ["request"]
    request, _ = function("request", {"payload": of_type("inject")["payload"]}, {})
    assert of_type("mqtt out")["topic"] == "", "the message says where it goes"
    ((topic, answer),) = answers_to(tmp_path, (request["topic"], json.dumps(request["payload"])))
    assert topic.startswith(of_type("mqtt in")["topic"].removesuffix("+"))
    assert of_type("mqtt in")["datatype"] == "json"
    whole = json.loads(answer)
    assert function("join parts", {"payload": whole}, {})[0]["payload"] == "echo: Is 7 a prime number?"
    first, kept = function("join parts", {"payload": {**whole, "parts": 2, "text": "one "}}, {})
    assert first is None
    last, _ = function("join parts", {"payload": {**whole, "part": 2, "parts": 2, "text": "two"}}, kept)
    assert last["payload"] == "one two"


# --- ESPHome ----------------------------------------------------------------------------------


def test_the_esphome_example_names_topics_and_fields_that_there_are():
    text = (EXAMPLES / "esphome.yaml").read_text()
    device = yaml.safe_load(text)
    names = device["substitutions"]

    def filled(topic):
        return topic.replace("${box}", names["box"]).replace("${client}", names["client"])

    asked = device["interval"][0]["then"][0]["mqtt.publish_json"]
    place = BOX.parse(filled(asked["topic"]))
    assert isinstance(place, RequestTopic)
    (heard,) = device["mqtt"]["on_json_message"]
    assert filled(heard["topic"]) == BOX.response(place.client, place.op)
    fields = set(re.findall(r'root\["(\w+)"\]', asked["payload"]))
    assert fields == {"prompt", "choices", "max_bytes", "ttl_s"}
    assert fields <= set(codec.Body.__struct_fields__)


@pytest.mark.skipif(not ESPHOME.exists(), reason="esphome is not installed; `sh .ci/tools` does it")
def test_esphome_finds_the_example_valid(tmp_path):
    here = shutil.copy(EXAMPLES / "esphome.yaml", tmp_path)
    done = subprocess.run(
        [ESPHOME, "config", here], check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert "Configuration is valid" in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == 0


def test_each_example_is_named_in_the_reference():
    text = (TOP / "docs" / "mqtt.md").read_text()
    assert all(f"(examples/{path.name})" in text for path in EXAMPLES.iterdir())
