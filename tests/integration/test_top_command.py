"""`edgectl top` against a real daemon: on a terminal, off it, and as JSON."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from tests.kit.daemon import running_daemon
from tests.kit.service import fake_model, fake_tree, long_text

DEADLINE_S = 30.0
COMMAND = [sys.executable, "-m", "edgectl", "top", "--interval", "0.2"]
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    tree = fake_tree(fake_model(folder, answer=long_text(200), step_s=0.005), memory={"budget_mib": 355})
    with running_daemon(tree | {"node": "attic"}, folder) as daemon:
        yield daemon


class OnTerminal:
    """`edgectl top` with a terminal of its own."""

    def __init__(self, url: str) -> None:
        self.ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.shown = ""
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        self.process = subprocess.Popen(
            [*COMMAND, "--url", url], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def read_until(self, words: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while words not in self.shown:
            ready, _, _ = select.select([self.ours], [], [], deadline - time.monotonic())
            assert ready, f"{words!r} was not shown:\n{self.shown}"
            self.shown += os.read(self.ours, 65536).decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


def left_cleanly(top: OnTerminal) -> None:
    assert top.process.wait(DEADLINE_S) == 0
    assert termios.tcgetattr(top.theirs) == top.before
    top.read_until(f"{ESCAPE}[?1049l")  # the screen as it was
    assert "Traceback" not in top.shown


def test_q_leaves_and_gives_the_terminal_back(box):
    with OnTerminal(box.url) as top:
        top.read_until("q leaves")
        assert "attic" in top.shown
        os.write(top.ours, b"xq")
        left_cleanly(top)


def test_ctrl_c_leaves_and_gives_the_terminal_back(box):
    with OnTerminal(box.url) as top:
        top.read_until("q leaves")
        top.process.send_signal(signal.SIGINT)
        left_cleanly(top)


def call(*words, env=None):
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})},
    )  # fmt: skip


def test_json_is_one_status_a_line(box):
    done = call("--url", box.url, "--json", "--count", "3")
    looks = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [look["node"] for look in looks] == ["attic"] * 3
    assert looks[0]["uptime_s"] < looks[1]["uptime_s"] < looks[2]["uptime_s"]


def test_off_a_terminal_there_is_no_colour_and_one_line_a_look(box):
    box.chat("hello", max_tokens=50)
    done = call("--url", box.url, "--count", "2", env={"FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert ESCAPE not in done.stdout
    first, second = done.stdout.splitlines()
    assert first.startswith("attic  ready  - tok/s")
    assert second.startswith("attic  ready  0.0 tok/s")
    assert "/355 MiB" in second


def test_a_box_that_is_not_there_is_an_error_and_no_picture():
    done = call("--url", "http://127.0.0.1:9", "--count", "1")
    assert done.returncode == 5
    assert "nothing answers" in done.stderr
    assert done.stdout == ""


def test_a_box_that_goes_away_is_told_as_gone(tmp_path):
    with running_daemon(fake_tree(fake_model(tmp_path)), tmp_path) as daemon:
        command = [*COMMAND, "--url", daemon.url, "--json"]
        top = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert json.loads(top.stdout.readline())["state"] == "ready"
            daemon.stop()
            errors = (look["error"] for text in top.stdout if "error" in (look := json.loads(text)))
            assert next(errors)["code"] == "unreachable"
            top.send_signal(signal.SIGINT)
            assert top.wait(DEADLINE_S) == 0
        finally:
            top.kill()
            top.communicate()
