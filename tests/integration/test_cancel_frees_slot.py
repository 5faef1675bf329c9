"""Promise P16: a cancel or a hang-up frees the slot within a step, also while a long prompt is read.

The prompt of the first client takes minutes to read and its answer takes minutes to write; the next client
has its answer within the test's patience only if neither goes on.
"""

from __future__ import annotations

import json
import socket
import struct

import paho.mqtt.client as paho
import pytest

from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.service import fake_model, fake_tree, long_text

STEP_S = 0.1
PROMPT = long_text(4000)  # 500 steps of eight tokens


def tree_of(tmp_path, **sections):
    model = {"slots": 1, "context": 16384, "ubatch": 8}
    script = fake_model(tmp_path, answer=long_text(2000), step_s=STEP_S)
    return fake_tree(script, model=model, limits={"max_tokens": 2000}, **sections)


def request_of(prompt: str, *, stream: bool) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    body = json.dumps({"messages": messages, "stream": stream, "max_tokens": 2000}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def reset(client: socket.socket) -> None:
    """End the connection with a RST, as a device that lost power and came back does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["reading", "answering"])
def test_a_reset_over_http_frees_the_slot(tmp_path, when, stream):
    with running_daemon(tree_of(tmp_path), tmp_path) as daemon:
        client = socket.create_connection(("127.0.0.1", daemon.port))
        client.sendall(request_of(PROMPT if when == "reading" else "hi", stream=stream))
        wait_until(lambda: daemon.status()["running"] == 1, "the request to have the slot")
        if when == "answering":
            wait_until(lambda: daemon.status()["counters"]["completion_tokens"] > 2, "the answer to begin")
        reset(client)
        assert daemon.chat("next", max_tokens=2)[0] == 200
        status = daemon.status()
        assert (status["counters"]["failed"], status["counters"]["engine_restarts"]) == (1, 0)


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
@pytest.mark.parametrize("when", ["reading", "answering"])
def test_the_cancel_topic_frees_the_slot(tmp_path, when):
    with Broker(tmp_path) as broker:
        tree = tree_of(tmp_path, mqtt={"enabled": True, "port": broker.port})
        with running_daemon(tree, tmp_path) as daemon:
            heard: list[dict] = []
            client = paho.Client(paho.CallbackAPIVersion.VERSION2)
            client.on_message = lambda _c, _u, message: heard.append(json.loads(message.payload))
            client.connect("127.0.0.1", broker.port)
            client.loop_start()
            try:
                client.subscribe("edged/box/response/dev/chat", 1)
                prompt = PROMPT if when == "reading" else "hi"
                payload = json.dumps({"id": "1", "prompt": prompt, "max_tokens": 2000})
                client.publish("edged/box/request/dev/chat", payload, qos=1).wait_for_publish(10)
                wait_until(lambda: daemon.status()["running"] == 1, "the request to have the slot")
                if when == "answering":
                    wait_until(
                        lambda: daemon.status()["counters"]["completion_tokens"] > 2, "the answer to begin"
                    )
                client.publish("edged/box/cancel/dev", "1")
                wait_until(lambda: heard, "the end of the request")
                assert heard[0]["error"]["code"] == "cancelled"
                assert daemon.chat("next", max_tokens=2)[0] == 200
            finally:
                client.disconnect()
                client.loop_stop()
