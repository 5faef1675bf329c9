"""The client over a real broker, with a scripted box at the other end."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgectl.client import EdgeClient, Unauthorized, Unhealthy, Unreachable
from edgectl.errors import NotFound
from edged.api.errors import Busy, Expired
from edged.api.events import Failed, Finished, Timings, Usage
from edged.transports.mqtt import replies
from tests.integration.broker import MOSQUITTO, Broker, free_port

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]
DEADLINE_S = 15.0


class Box:
    """A node at the broker that answers as ``play(box, client, op, request)`` says."""

    def __init__(self, port, play, *, node="box", online=True, version=MQTTProtocolVersion.MQTTv5):
        self.root = f"edged/{node}"
        self.heard: list[dict] = []
        self.expiries: list[int | None] = []
        self.cancelled: list[str] = []
        self.changed = threading.Condition()
        self._play = play
        self._status = b"online" if online else b"offline"
        self._up = threading.Event()
        self._paho = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._paho.reconnect_delay_set(0.1, 0.5)
        self._paho.on_connect = self._connected
        self._paho.on_subscribe = lambda *_: self._up.set()
        self._paho.on_message = self._message
        self._paho.connect("127.0.0.1", port)

    def __enter__(self):
        self._paho.loop_start()
        assert self._up.wait(DEADLINE_S)
        return self

    def __exit__(self, *_):
        self._paho.disconnect()
        self._paho.loop_stop()

    def stream(self, client, payload):
        self._paho.publish(f"{self.root}/stream/{client}", payload, qos=0)

    def respond(self, client, op, payload):
        self._paho.publish(f"{self.root}/response/{client}/{op}", payload, qos=1)

    def retain(self, name, payload):
        self._paho.publish(f"{self.root}/{name}", payload, qos=1, retain=True).wait_for_publish(DEADLINE_S)

    def wait(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE_S)

    def _connected(self, client, *_):
        client.publish(f"{self.root}/info", b'{"node": "box"}', qos=1, retain=True)
        client.publish(f"{self.root}/status", self._status, qos=1, retain=True)
        client.subscribe([(f"{self.root}/request/+/+", 1), (f"{self.root}/cancel/+", 0)])

    def _message(self, _client, _data, message):
        parts = message.topic.removeprefix(f"{self.root}/").split("/")
        with self.changed:
            if parts[0] == "cancel":
                self.cancelled.append(message.payload.decode())
            else:
                self.heard.append(json.loads(message.payload))
                self.expiries.append(getattr(message.properties, "MessageExpiryInterval", None))
            self.changed.notify_all()
        if parts[0] == "request":
            self._play(self, parts[1], parts[2], json.loads(message.payload))


def finished(request, text="hello world", tokens=2):
    return Finished(
        id=request["id"],
        text=text,
        finish="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=tokens),
        timings=Timings(queue_ms=0, first_ms=10, total_ms=30),
    )


def answers(text="hello world", pieces=(), *, limit=100_000, shuffle=False):
    """Plays ``pieces`` (seq, text) on the stream topic, then the whole answer."""

    def play(box, client, op, request):
        for seq, piece in pieces:
            for payload in replies.deltas(request["id"], seq, piece, 1000):
                box.stream(client, payload)
        parts = replies.response(finished(request, text), limit)
        for part in (*reversed(parts), *parts) if shuffle else parts:
            box.respond(client, op, part)

    return play


def silent(*_):
    return


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("broker"), "allow_anonymous true") as broker:
        yield broker


@pytest.fixture
def meet(broker):
    """``meet(play, **options)`` → box and client, both closed at the end; no thread may stay."""
    before = threading.active_count()
    with contextlib.ExitStack() as stack:

        def start(play, **options):
            node = f"n{time.monotonic_ns()}"
            box = stack.enter_context(Box(broker.port, play, node=node))
            url = f"mqtt://127.0.0.1:{broker.port}/edged/{node}"
            return box, stack.enter_context(EdgeClient(url, **{"timeout_s": 10, **options}))

        yield start
    assert threading.active_count() == before


def test_an_answer_comes_whole(meet):
    box, client = meet(answers())
    answer = client.generate("hi", system="s", max_tokens=3)
    assert answer.text == "hello world"
    assert answer.tokens_per_s == 50.0
    assert box.heard[0]["messages"][1] == {"role": "user", "content": "hi"}
    assert "stream" not in box.heard[0]


def test_no_packet_waits_for_the_acknowledgement_of_the_one_before(meet):
    """With Nagle's algorithm a request behind an answer would wait 40 ms for the broker to acknowledge."""
    _, client = meet(answers())
    client.generate("hi")
    stream = client._transport._line._paho.socket()
    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_pieces_are_given_as_they_come(meet):
    _, client = meet(answers("abc", [(0, "a"), (1, "b"), (2, "c")]))
    assert list(client.stream("x")) == ["a", "b", "c"]


def test_a_stream_has_any_time_while_pieces_come_and_an_answer_in_one_piece_what_is_waited_for_it(meet):
    box, client = meet(answers("ab", [(0, "a"), (1, "b")]))
    client.stream("x").read()
    client.stream("x", ttl_s=60).read()
    client.generate("x")
    client.generate("x", ttl_s=70)
    assert box.expiries == [None, 60, 10, 70]


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, "a")],
        [(1, "b"), (2, "c")],
        [(0, "a"), (2, "c")],
        [(2, "c"), (1, "b"), (0, "a")],
        [(0, "a"), (0, "a"), (1, "b"), (1, "b")],
    ],
)
def test_lost_late_and_doubled_pieces_never_change_the_text(meet, pieces):
    _, client = meet(answers("abcd", pieces))
    with client.stream("x") as stream:
        assert "".join(stream) == "abcd"
        assert stream.answer.text == "abcd"


def test_pieces_of_another_answer_are_an_error_not_a_wrong_text(meet):
    _, client = meet(answers("yes", [(0, "no")]))
    with pytest.raises(Unhealthy):
        client.stream("x").read()


def test_a_long_answer_is_joined_from_parts_in_any_order(meet):
    text = "\u00e9\u4e16\U0001f600 words " * 200
    _, client = meet(answers(text, limit=200, shuffle=True))
    assert client.generate("x").text == text


def test_a_refusal_is_typed_and_says_when_to_come_back(meet):
    def refuse(box, client, op, request):
        failed = Failed(id=request["id"], code="busy", message="full", retry_after_s=4.0)
        box.respond(client, op, replies.response(failed, 1000)[0])

    box, client = meet(refuse)
    with pytest.raises(Busy, match="full") as caught:
        client.generate("x")
    assert caught.value.retry_after_s == 4.0
    client.close()
    assert box.cancelled == []


def test_a_malformed_response_is_unhealthy(meet):
    _, client = meet(lambda box, who, op, request: box.respond(who, op, json.dumps({"id": request["id"]})))
    with pytest.raises(Unhealthy):
        client.generate("x")


def test_noise_on_the_clients_topics_is_ignored(meet):
    def play(box, client, op, request):
        for noise in (b"", b"\xff", b"[]", b'{"id": "other", "ok": true}', b'{"id": null}'):
            box.respond(client, op, noise)
            box.stream(client, noise)
        answers("fine")(box, client, op, request)

    _, client = meet(play)
    assert client.stream("x").read().text == "fine"


def test_leaving_a_stream_cancels_on_the_box(meet):
    def start(box, client, _op, request):
        box.stream(client, replies.deltas(request["id"], 0, "first", 1000)[0])

    box, client = meet(start)
    with client.stream("x") as stream:
        assert next(stream) == "first"
    box.wait(lambda: box.cancelled == [box.heard[0]["id"]])


def test_silence_expires_and_cancels_on_the_box(meet):
    box, client = meet(silent)
    with pytest.raises(Expired):
        client.generate("x", timeout_s=0.3)
    box.wait(lambda: box.cancelled == [box.heard[0]["id"]])


def test_ctrl_c_cancels_on_the_box(meet):
    box, client = meet(lambda *_: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        client.generate("x")
    box.wait(lambda: box.cancelled == [box.heard[0]["id"]])


def test_closing_the_client_cancels_what_is_open(meet):
    box, client = meet(silent)
    stream = client.stream("x", timeout_s=10)
    reader = threading.Thread(target=drain, args=(stream,))
    reader.start()
    box.wait(lambda: box.heard)
    client.close()
    reader.join(DEADLINE_S)
    assert not reader.is_alive()
    box.wait(lambda: box.cancelled)


def drain(stream):
    with contextlib.suppress(Unreachable):
        stream.read()


def test_several_threads_share_one_client_and_get_their_own_answers(meet):
    def echo(box, client, op, request):
        answers("echo " + request["messages"][0]["content"])(box, client, op, request)

    _, client = meet(echo)
    found = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: client.generate(str(n)).text})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert found == {n: f"echo {n}" for n in range(8)}


def test_a_restart_of_the_broker_costs_no_answer(tmp_path):
    heard = []

    def second_time(box, client, op, request):
        heard.append(request)
        if len(heard) == 1:
            threading.Thread(target=restart).start()
        else:
            answers("after all")(box, client, op, request)

    with Broker(tmp_path, "allow_anonymous true") as broker:

        def restart():
            broker.stop(signal.SIGKILL)
            broker.start()

        with (
            Box(broker.port, second_time) as _,
            EdgeClient(f"mqtt://127.0.0.1:{broker.port}/edged/box") as client,
        ):
            assert client.generate("x", timeout_s=30).text == "after all"
    assert heard[0] == heard[1]


def test_a_broker_that_goes_away_for_good_is_unreachable(tmp_path, monkeypatch):
    monkeypatch.setattr("edgectl.client.mqtt.RECONNECT_PATIENCE_S", 0.3)
    with Broker(tmp_path, "allow_anonymous true") as broker:
        box = Box(broker.port, lambda *_: threading.Thread(target=broker.stop).start())
        url = f"mqtt://127.0.0.1:{broker.port}/edged/box"
        with box, EdgeClient(url) as client, pytest.raises(Unreachable, match="did not come back"):
            client.generate("x")


def test_no_broker_is_unreachable():
    with EdgeClient(f"mqtt://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable, match="refused"):
        client.generate("x")


def test_a_box_that_is_offline_is_unreachable_at_once(broker):
    url = f"mqtt://127.0.0.1:{broker.port}/edged/asleep"
    box = Box(broker.port, silent, node="asleep", online=False)
    with box, EdgeClient(url) as client, pytest.raises(Unreachable, match="offline"):
        client.generate("x")


def test_a_box_that_is_loading_is_waited_for(broker):
    with Box(broker.port, answers("loaded"), node="loading", online=False) as box:
        box.retain("health", b'{"state": "loading"}')
        with EdgeClient(f"mqtt://127.0.0.1:{broker.port}/edged/loading") as client:
            assert client.generate("x").text == "loaded"


def test_a_node_nobody_knows_is_unreachable(broker):
    url = f"mqtt://127.0.0.1:{broker.port}/edged/nobody"
    with EdgeClient(url) as client, pytest.raises(Unreachable, match="knows no edged"):
        client.generate("x")


def test_without_a_node_the_only_one_is_taken_and_of_several_none(tmp_path):
    with Broker(tmp_path, "allow_anonymous true") as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        with EdgeClient(url) as client, pytest.raises(NotFound, match="no edged"):
            client.generate("x")
        with Box(broker.port, answers("found"), node="one"):
            with EdgeClient(url) as client:
                assert client.generate("x").text == "found"
            with Box(broker.port, silent, node="two"), EdgeClient(url) as client:
                with pytest.raises(NotFound, match="one, two") as caught:
                    client.generate("x")
                assert caught.value.hint.endswith("/edged/one")


OLD_BROKER = """
import asyncio, sys
from amqtt.broker import Broker

async def main(port):
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    await Broker({"listeners": listeners, "plugins": plugins}).start()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


def test_a_broker_that_speaks_3_1_1_only_is_fallen_back_to():
    pytest.importorskip("amqtt")
    port = free_port()
    command = [sys.executable, "-c", OLD_BROKER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as broker:
        try:
            assert broker.stdout.readline() == b"up\n"
            play = answers("old", [(0, "o"), (1, "ld")])
            url = f"mqtt://127.0.0.1:{port}/edged/box"
            with Box(port, play, version=MQTTProtocolVersion.MQTTv311), EdgeClient(url) as client:
                assert list(client.stream("x", timeout_s=DEADLINE_S)) == ["o", "ld"]
        finally:
            broker.kill()


@pytest.mark.parametrize("password", [None, "wrong-password"])
def test_a_broker_that_wants_another_password_says_so(tmp_path, password):
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", passwords, "me", "right-password"], check=True, capture_output=True
    )
    with Broker(tmp_path, f"password_file {passwords}", "allow_anonymous false") as broker:
        url = f"mqtt://me@127.0.0.1:{broker.port}/edged/box"
        with EdgeClient(url, password=password) as client, pytest.raises(Unauthorized) as caught:
            client.generate("x")
        assert "wrong-password" not in caught.value.message


def test_a_request_the_access_rules_forbid_fails_at_once(tmp_path):
    rules = tmp_path / "acl"
    rules.write_text(
        "topic read #\npattern read edged/#\ntopic write edged/box/status\ntopic write edged/box/info\n"
    )
    rules.chmod(0o600)
    with Broker(tmp_path, "allow_anonymous true", f"acl_file {rules}") as broker, Box(broker.port, silent):
        url = f"mqtt://127.0.0.1:{broker.port}/edged/box"
        with EdgeClient(url) as client, pytest.raises(Unreachable, match="did not take"):
            client.generate("x", timeout_s=DEADLINE_S)


def test_a_port_that_is_no_broker_is_unreachable(monkeypatch):
    import socket

    monkeypatch.setattr("edgectl.client.mqtt_line.CONNACK_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        with EdgeClient(url) as client, pytest.raises(Unreachable, match="does not answer"):
            client.generate("x")


def test_a_frozen_broker_does_not_hold_up_the_close(tmp_path, monkeypatch):
    monkeypatch.setattr("edgectl.client.mqtt_line.GOODBYE_TIMEOUT_S", 0.3)
    with Broker(tmp_path, "allow_anonymous true") as broker, Box(broker.port, answers()):
        with EdgeClient(f"mqtt://127.0.0.1:{broker.port}/edged/box") as client:
            client.generate("x")
            broker.freeze()
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 5
        broker.thaw()
