"""The daemon itself is killed, told to stop, or started wrong; requests and processes are accounted for."""

from __future__ import annotations

import json
import signal
import socket
import threading
import urllib.request

import paho.mqtt.client as paho
import pytest

from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.test_thin_line import Client
from tests.kit.daemon import Daemon, alive, running_daemon, wait_until
from tests.kit.keys import put_keys
from tests.kit.service import fake_model, fake_tree, long_text

needs_mosquitto = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]
LONG = {"answer": long_text(3000), "step_s": 0.01}
BASE = "edged/box"


def ask_in_background(daemon: Daemon, **fields) -> tuple[threading.Thread, list]:
    """Start a chat that takes long; (its thread, where its outcome will be)."""
    outcome: list = []

    def ask() -> None:
        try:
            outcome.append(daemon.chat("long", max_tokens=2000, **fields))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_the_daemon_survives_its_worker_and_answers_the_next_request(tmp_path, number):
    import os

    tree = fake_tree(fake_model(tmp_path, **LONG), engine={"hang_timeout_s": 2}, model={"context": 8192})
    with running_daemon(tree, tmp_path) as daemon:
        pid, worker = daemon.pid, daemon.status()["worker_pid"]
        thread, outcome = ask_in_background(daemon)
        wait_until(lambda: daemon.status()["running"] == 1, "the request to run")
        os.kill(worker, number)
        thread.join(30)
        ((code, body),) = outcome
        assert code == 502
        assert body["error"]["code"] == "engine_lost"
        wait_until(lambda: daemon.status()["state"] == "ready", "a new worker")
        assert daemon.chat("again", max_tokens=4)[0] == 200
        assert daemon.pid == pid
        assert alive(pid)
        assert not alive(worker)


def test_sigkill_of_the_daemon_leaves_no_orphan_and_the_port_can_be_bound_again(tmp_path):
    tree = fake_tree(fake_model(tmp_path, **LONG), model={"context": 8192})
    daemon = Daemon(tree, tmp_path)
    for _ in range(5):
        daemon.start()
        worker = daemon.status()["worker_pid"]
        thread, _ = ask_in_background(daemon)
        wait_until(lambda: daemon.status()["running"] == 1, "the request to run")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        wait_until(lambda worker=worker: not alive(worker), "the worker to be gone", limit_s=2)
        thread.join(30)
    with running_daemon(tree, tmp_path) as again:
        assert again.chat("hello", max_tokens=4)[0] == 200


class TestQos1:
    pytestmark = needs_mosquitto

    def test_unacknowledged_requests_are_answered_after_a_kill(self, tmp_path):
        """Every accepted prompt is answered, possibly twice, never zero times."""
        tree = fake_tree(fake_model(tmp_path, step_s=0.01), model={"slots": 2})
        with Broker(tmp_path) as broker:
            tree["mqtt"] = {"enabled": True, "port": broker.port}
            daemon = Daemon(tree, tmp_path).start()
            with Client(broker.port, paho.MQTTv311, f"{BASE}/response/+/+") as client:
                wanted = {f"q{n}" for n in range(12)}
                for name in sorted(wanted):
                    body = json.dumps({"id": name, "prompt": f"hello {name}"})
                    client.mqtt.publish(f"{BASE}/request/cam/chat", body, qos=1)
                client.wait(f"{BASE}/response/cam/chat", 2)
                daemon.signal(signal.SIGKILL)
                daemon.wait()
                daemon.start()
                try:
                    answers: dict[str, str] = {}

                    def all_answered() -> bool:
                        for message in client.messages:
                            body = json.loads(message.payload)
                            assert body["ok"], body
                            answers[body["id"]] = body["text"]
                        return set(answers) == wanted

                    wait_until(all_answered, "an answer to each of the requests")
                    assert answers == {name: f"echo: hello {name}" for name in wanted}
                finally:
                    daemon.stop()

    def test_sigterm_while_a_worker_gives_way_lets_a_running_answer_finish_and_exits_0(self, tmp_path):
        tree = fake_tree(fake_model(tmp_path, step_s=0.3))
        with Broker(tmp_path) as broker:
            tree["mqtt"] = {"enabled": True, "port": broker.port, "home_assistant": True}
            with running_daemon(tree, tmp_path) as daemon:
                thread, outcome = ask_in_background(daemon)
                wait_until(lambda: daemon.status()["running"] == 1, "the request to run")
                with Client(broker.port, paho.MQTTv311, f"{BASE}/#") as client:
                    client.mqtt.publish(f"{BASE}/model", b"reload", qos=1)
                    wait_until(lambda: daemon.status()["engine"] == "recycling", "the worker to give way")
                assert daemon.stop() == 0
                thread.join(30)
                ((code, body),) = outcome
                assert (code, body["choices"][0]["message"]["content"]) == (200, "echo: long")

    def test_a_stop_with_the_broker_gone_is_clean(self, tmp_path):
        tree = fake_tree(fake_model(tmp_path))
        with Broker(tmp_path) as broker:
            tree["mqtt"] = {"enabled": True, "port": broker.port}
            daemon = Daemon(tree, tmp_path).start()
            broker.stop(signal.SIGKILL)
            assert daemon.stop() == 0


def test_sigterm_lets_a_running_answer_finish_and_exits_0(tmp_path):
    with running_daemon(fake_tree(fake_model(tmp_path, step_s=0.05)), tmp_path) as daemon:
        thread, outcome = ask_in_background(daemon)
        wait_until(lambda: daemon.status()["running"] == 1, "the request to run")
        assert daemon.stop() == 0
        thread.join(30)
        ((code, body),) = outcome
        assert code == 200
        assert body["choices"][0]["message"]["content"] == "echo: long"


def test_sigterm_while_loading_exits_0_and_leaves_nothing(tmp_path):
    daemon = Daemon(fake_tree(fake_model(tmp_path, load_s=30)), tmp_path).start(ready=False)
    wait_until(lambda: daemon.get("/healthz")[0] == 200, "the daemon to listen")
    worker = wait_until(lambda: daemon.status()["worker_pid"], "a worker")
    assert daemon.stop() == 0
    assert not alive(worker)


def test_sigterm_with_a_reader_that_does_not_read_exits_0(tmp_path):
    tree = fake_tree(
        fake_model(tmp_path, answer=long_text(60000)), model={"context": 65536}, limits={"max_tokens": 60000}
    )
    with running_daemon(tree, tmp_path) as daemon:
        body = json.dumps(
            {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 59000}
        ).encode()
        with socket.create_connection(("127.0.0.1", daemon.port)) as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{daemon.port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            stuck.sendall(head.encode() + body)
            stuck.recv(1)
            assert daemon.stop() == 0


def test_a_missing_model_is_explained_and_the_daemon_stays_reachable(tmp_path):
    tree = fake_tree(tmp_path / "gone.fake")
    manager = tmp_path / "manager"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(manager))
        told.settimeout(30)
        daemon = Daemon(tree, tmp_path, env={"NOTIFY_SOCKET": str(manager)}).start(ready=False)
        try:
            explains(daemon)
            # The service manager gives a start that does not come to its end more time.
            while not (word := told.recv(4096)).startswith(b"EXTEND_TIMEOUT_USEC="):
                assert b"READY=1" not in word
        finally:
            assert daemon.stop() == 0


def explains(daemon: Daemon) -> None:
    wait_until(lambda: daemon.get("/readyz")[1], "the daemon to listen")
    condition = wait_until(lambda: daemon.status()["conditions"], "a condition")[0]
    assert condition["code"] == "engine_failed"
    assert "gone.fake" in condition["message"]
    assert daemon.get("/readyz")[0] == 503
    assert daemon.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("model = [", "not TOML"),
        ("[model]\npath = 'relative.gguf'", "absolute"),
        ("[model]\npath = '/x'\ncontxt = 1", "did you mean model.context"),
        ("[model]\npath = '/x'\n[http]\nhost = '0.0.0.0'", "edgectl keys add"),
    ],
)
def test_a_broken_configuration_exits_78_and_says_what_is_wrong(tmp_path, text, word):
    daemon = Daemon({}, tmp_path)
    daemon.config.write_text(text)
    daemon.start(ready=False)
    assert daemon.wait() == 78
    assert word in daemon.log
    assert "Traceback" not in daemon.log


def test_a_port_in_use_exits_1_so_that_the_unit_tries_again_and_names_the_key(tmp_path):
    tree = fake_tree(fake_model(tmp_path))
    with running_daemon(tree, tmp_path) as first:
        (tmp_path / "second").mkdir()
        second = Daemon({**tree, "http": {"port": first.port}}, tmp_path / "second").start(ready=False)
        assert second.wait() == 1
        assert "http.port" in second.log
        assert str(first.port) in second.log
        assert "Traceback" not in second.log
        assert urllib.request.urlopen(f"{first.url}/healthz", timeout=5).status == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_there_yet_exits_1_so_that_the_unit_tries_again(tmp_path, host):
    keys = put_keys(tmp_path / "keys.toml")
    tree = fake_tree(fake_model(tmp_path), http={"host": host, "keys_file": str(keys)})
    daemon = Daemon(tree, tmp_path).start(ready=False)
    assert daemon.wait() == 1
    assert "http.host" in daemon.log
    assert "Traceback" not in daemon.log
