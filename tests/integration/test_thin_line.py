"""From a message on a real broker to a real model and back: the product's one line, end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from typing import Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.test_real_model import QUESTIONS
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.model import smollm2_tree

pytestmark = [
    pytest.mark.model,
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]
BASE = "edged/box"
QUESTION = "What is the capital of France?"
LIMIT_S = 90.0


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A broker and a daemon with the real model; (daemon, broker)."""
    folder = tmp_path_factory.mktemp("line")
    with Broker(folder) as broker:
        tree = smollm2_tree(mqtt={"enabled": True, "port": broker.port, "reply_prefixes": ["replies"]})
        tree["model"]["sampling"] = {"temperature": 0.0}  # a plain text brings no sampling of its own
        with running_daemon(tree, folder) as daemon:
            yield daemon, broker


class Client:
    """A plain paho client that keeps every message it gets."""

    def __init__(self, port: int, version: int, *topics: str) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._subscribed = threading.Event()
        self._topics = topics
        self.mqtt = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self.mqtt.on_message = lambda _client, _data, message: self.messages.append(message)
        self.mqtt.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self.mqtt.on_subscribe = lambda *_: self._subscribed.set()
        self.mqtt.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self.mqtt.loop_start()
        assert self._subscribed.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def wait(self, topic: str, count: int = 1) -> list[paho.MQTTMessage]:
        def found() -> list[paho.MQTTMessage]:
            matching = [message for message in self.messages if message.topic == topic]
            return matching if len(matching) >= count else []

        return wait_until(found, f"{count} messages on {topic}", LIMIT_S)


def request(**fields) -> str:
    return json.dumps({"id": f"q{time.monotonic_ns()}", "temperature": 0, "max_tokens": 24, **fields})


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_paris_over_the_request_topic(line, version, stream):
    _, broker = line
    topics = (f"{BASE}/response/cam/chat", f"{BASE}/stream/cam")
    with Client(broker.port, version, *topics) as client:
        client.mqtt.publish(f"{BASE}/request/cam/chat", request(prompt=QUESTION, stream=stream), qos=1)
        answer = json.loads(client.wait(topics[0])[0].payload)
        assert answer["ok"]
        assert "Paris" in answer["text"]
        deltas = [json.loads(message.payload) for message in client.messages if message.topic == topics[1]]
        text = "".join(delta.get("delta", "") for delta in deltas)
        assert text == (answer["text"] if stream else "")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_paris_to_a_response_topic_with_correlation_data(line, stream):
    _, broker = line
    with Client(broker.port, paho.MQTTv5, "replies/cam", f"{BASE}/response/cam/chat") as client:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "replies/cam"
        properties.CorrelationData = b"\x00\x01correlated"
        body = request(prompt=QUESTION, stream=stream)
        client.mqtt.publish(f"{BASE}/request/cam/chat", body, qos=1, properties=properties)
        (direct,) = client.wait("replies/cam")
        assert direct.properties.CorrelationData == b"\x00\x01correlated"
        assert "Paris" in json.loads(direct.payload)["text"]
        (ordinary,) = client.wait(f"{BASE}/response/cam/chat")
        assert json.loads(ordinary.payload)["text"] == json.loads(direct.payload)["text"]


def test_paris_with_mosquitto_pub_and_sub_and_plain_text_alone(line):
    _, broker = line
    tools = {name: shutil.which(name) for name in ("mosquitto_sub", "mosquitto_pub")}
    assert all(tools.values()), "mosquitto-clients is not installed"
    port = str(broker.port)
    listen = [tools["mosquitto_sub"], "-p", port, "-t", f"{BASE}/answer", "-C", "1", "-W", "80"]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as subscriber:
        wait_until(
            lambda: f"{BASE}/answer (QoS" in broker.log.read_text(), "the broker to note the subscription"
        )
        ask = [tools["mosquitto_pub"], "-p", port, "-t", f"{BASE}/ask", "-q", "1", "-m", QUESTION]
        subprocess.run(ask, check=True, timeout=20)
        assert "Paris" in subscriber.communicate(timeout=LIMIT_S)[0]


def test_paris_over_http(line):
    daemon, _ = line
    code, body = daemon.chat(QUESTION, max_tokens=24)
    assert code == 200
    assert "Paris" in body["choices"][0]["message"]["content"]


def test_paris_over_http_streamed(line):
    daemon, _ = line
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        "max_tokens": 24,
    }
    call = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=LIMIT_S) as answer:
        lines = [row.decode().strip() for row in answer if row.startswith(b"data:")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(row[5:]) for row in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert "Paris" in text
    assert len(chunks) > 3


def test_eight_mqtt_clients_at_once_get_what_each_gets_alone(line):
    _, broker = line
    topics = [f"{BASE}/response/c{n}/chat" for n in range(8)]

    def publish(client: Client, n: int) -> None:
        body = request(prompt=QUESTIONS[n], max_tokens=12)
        client.mqtt.publish(f"{BASE}/request/c{n}/chat", body, qos=1)

    with Client(broker.port, paho.MQTTv311, *topics) as client:
        alone = []
        for n in range(8):
            publish(client, n)
            alone.append(json.loads(client.wait(topics[n])[0].payload)["text"])
        for n in range(8):
            publish(client, n)
        together = [json.loads(client.wait(topics[n], 2)[1].payload)["text"] for n in range(8)]
    assert together == alone
    assert "Paris" in together[0]


def test_the_box_says_who_it_is_and_that_it_answers(line):
    _, broker = line
    with Client(broker.port, paho.MQTTv5, f"{BASE}/status", f"{BASE}/info") as client:
        (status,) = client.wait(f"{BASE}/status")
        assert status.payload == b"online"
        assert status.retain
        info = json.loads(client.wait(f"{BASE}/info")[0].payload)
        assert info["model"]["name"] == "smollm2-135m-instruct"
