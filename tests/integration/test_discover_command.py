"""`edgectl discover` asks the boxes it finds, and none of them can hold it up."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from edgectl.client.boxes import Box
from edgectl.client.census import address, ask_all
from edgectl.commands import discover
from edgectl.output.outcome import run
from tests.integration.broker import Broker
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.keys import put_keys
from tests.kit.service import fake_model, fake_tree

LOOPBACK = ("127.0.0.1",)


def box(port: int, name: str = "attic", **fields) -> Box:
    return Box(name=name, addresses=LOOPBACK, port=port, **{"http": "yes", "auth": "no"} | fields)


@contextlib.contextmanager
def listening(serve):
    """A server that treats each connection as ``serve`` does; yields its port."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=serve, args=(client, done), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def never_answers(client, done):
    with client:
        done.wait()


def answers_byte_by_byte(client, done):
    with client, contextlib.suppress(OSError):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while not done.wait(0.05):
            client.sendall(b" ")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    with running_daemon(fake_tree(fake_model(folder)), folder) as daemon:
        daemon.chat("hello", max_tokens=20)
        yield daemon


def test_a_box_is_asked_how_it_is(running):
    (seen,) = ask_all([box(running.port)], 10.0)
    assert seen.problem == ""
    assert seen.status.health == "ok"
    assert discover.load(seen) == "0%"
    assert float(discover.speed(seen)) > 0


def test_boxes_that_hang_or_drip_hold_up_nobody(running):
    with listening(never_answers) as hanging, listening(answers_byte_by_byte) as dripping:
        boxes = [box(hanging), box(dripping), box(running.port), box(9)]
        begun_s = time.monotonic()
        seen = ask_all(boxes, 3.0)
        assert time.monotonic() - begun_s < 10
        assert [bool(one.status) for one in seen] == [False, False, True, False]
        assert seen[0].problem
        assert "no answer" in seen[1].problem
        assert "nothing answers" in seen[3].problem


def test_a_box_with_a_key_is_not_asked_and_no_key_is_sent(tmp_path, monkeypatch):
    tree = fake_tree(fake_model(tmp_path), http={"keys_file": str(put_keys(tmp_path / "keys.toml"))})
    monkeypatch.setenv("EDGECTL_KEY_FILE", str(tmp_path / "keys.toml"))
    with running_daemon(tree | {"node": "attic"}, tmp_path) as daemon:
        (seen,) = ask_all([box(daemon.port, auth="yes", health="ok", load=25, tok_s=4.5)], 5.0)
        assert seen.status is None
        assert discover.health(seen) == "ok* (needs its key)"
        assert (discover.load(seen), discover.speed(seen)) == ("25%*", "4.5*")


def test_a_box_behind_a_broker_is_asked_there(tmp_path):
    (tmp_path / "broker").mkdir()
    with Broker(tmp_path / "broker") as broker:
        tree = fake_tree(fake_model(tmp_path), mqtt={"enabled": True, "port": broker.port})
        with running_daemon(tree, tmp_path) as daemon:
            wait_until(lambda: daemon.status()["mqtt"]["connected"], "the broker")
            found = box(1, http="loopback", mqtt=f"127.0.0.1:{broker.port}", topic="edged/box")
            assert address(found) == f"mqtt://127.0.0.1:{broker.port}/edged/box"
            (seen,) = ask_all([found], 10.0)
            assert seen.status.node == "box"
            assert discover.load(seen).endswith(("%", "0 requests"))


@pytest.mark.parametrize("topic", ["edged/#", "a//b", "\x00", "x y/z"])
def test_an_announcement_that_makes_no_sense_is_a_problem_of_that_box_alone(running, topic):
    strange = box(1, http="no", mqtt="no port", topic=topic)
    seen = ask_all([strange, box(running.port)], 10.0)
    assert seen[0].problem
    assert seen[1].status is not None


def test_the_command_shows_what_was_found_and_how_it_is(running, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    boxes = [
        box(running.port, model="fake", pool="hall"),
        box(
            9,
            "cellar",
            model="other",
            health="loading",
            load=50,
            tok_s=2.25,
            mqtt="hub:1883",
            topic="edged/cellar",
        ),
    ]
    monkeypatch.setattr("edgectl.client.boxes.find_boxes", lambda *_: boxes)
    assert run(discover.command, []) == 0
    shown = capsys.readouterr().out
    assert "attic" in shown
    assert "pool hall" in shown
    assert "loading*" in shown
    assert "50%*" in shown
    assert "mqtt://hub:1883/edged/cellar" in shown
    assert run(discover.command, ["--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["status"]["state"] == "ready"
    assert second["status"] is None
    assert "nothing answers" in second["problem"]
    assert (second["load"], second["tok_s"]) == (50, 2.25)
    assert run(discover.command, ["--no-ask", "--json"]) == 0
    assert [one["status"] for one in json.loads(capsys.readouterr().out)] == [None, None]
