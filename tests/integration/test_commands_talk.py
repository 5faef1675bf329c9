"""edgectl ask, status and logs, and the client, against the real daemon with the fake engine."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import msgspec
import pytest

from edgectl.client import ChatSession, EdgeClient
from edgectl.commands.status import exit_status
from edgectl.output.status import bar, duration
from edged.api.errors import BadRequest
from edged.api.status import ServiceState, Status
from tests.integration.broker import MOSQUITTO, Broker, free_port
from tests.kit.daemon import Daemon, running_daemon, wait_until
from tests.kit.keys import KEY, put_keys

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A daemon with key, on a broker where there is one; the urls of it by scheme."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "model.fake").write_text("step_s = 0.002\n")
    (folder / "key").write_text(KEY + "\n")
    (folder / "key").chmod(0o600)
    tree = {
        "node": "box",
        "model": {"path": str(folder / "model.fake"), "backend": "fake", "context": 4096, "slots": 2},
        "http": {"keys_file": str(put_keys(folder / "keys.toml"))},
        "memory": {"budget_mib": 512},
    }
    if MOSQUITTO is None:
        with running_daemon(tree, folder) as daemon:
            yield daemon, {"http": daemon.url}
        return
    (folder / "broker").mkdir()
    with Broker(folder / "broker", "allow_anonymous true") as broker:
        tree["mqtt"] = {"enabled": True, "port": broker.port}
        with running_daemon(tree, folder) as daemon:
            yield daemon, {"http": daemon.url, "mqtt": f"mqtt://127.0.0.1:{broker.port}/edged/box"}


@pytest.fixture(params=["http", "mqtt"])
def url(request, box):
    _, urls = box
    if request.param not in urls:
        pytest.skip("mosquitto is not installed")
    return urls[request.param]


@pytest.fixture
def edgectl(box, url, tmp_path):
    """Runs edgectl against the box and returns what came out."""
    daemon, _ = box
    environment = {
        **os.environ,
        "EDGECTL_URL": url,
        "EDGECTL_KEY_FILE": str(daemon.config.parent / "key"),
        "XDG_CONFIG_HOME": str(tmp_path),
    }

    def run(*arguments, env=None, **options):
        options = {"stdin": subprocess.DEVNULL, "timeout": DEADLINE_S} | options
        if "input" in options:
            del options["stdin"]
        command = [sys.executable, "-m", "edgectl", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**environment, **(env or {})},
            **options,
        )

    run.environment = environment
    return run


def client_of(url):
    return EdgeClient(url, api_key=KEY, timeout_s=DEADLINE_S)


def status_of(box):
    _, urls = box
    with client_of(urls["http"]) as client:
        return client.status()


def test_the_client_generates_streams_and_chats(url):
    with client_of(url) as client:
        assert client.generate("h\u00e9llo").text == "echo: h\u00e9llo"
        assert client.generate("as it is", raw=True).usage.prompt_tokens == len("as it is")
        with client.stream("piece by piece") as stream:
            pieces = list(stream)
        assert len(pieces) > 1
        assert "".join(pieces) == stream.answer.text == "echo: piece by piece"
        cut = client.generate("long", max_tokens=3)
        assert (cut.text, cut.finish, cut.usage.completion_tokens) == ("ech", "length", 3)
        chat = ChatSession(client)
        assert [chat.send("one").text, chat.send("two").text] == ["echo: one", "echo: two"]
        assert len(chat.messages) == 4


def test_what_the_client_gets_wrong_is_the_same_error_over_both_transports(url):
    with client_of(url) as client, pytest.raises(BadRequest, match="max_tokens"):
        client.generate("x", max_tokens=10**6)


def test_info_and_status_come_over_both_transports(url):
    with client_of(url) as client:
        assert client.info().limits.max_tokens == 2048
        status = client.status()
    assert (status.node, status.state) == ("box", ServiceState.READY)


def test_leaving_a_stream_frees_the_slot(box, url):
    before = status_of(box).counters
    with client_of(url) as client:
        with client.stream("x" * 3000, max_tokens=2000) as stream:
            next(stream)
        wait_until(lambda: status_of(box).running == 0, "the slot to be free", DEADLINE_S)
    assert status_of(box).counters.finished == before.finished


def test_ask_prints_the_answer_and_nothing_else(edgectl):
    done = edgectl("ask", "good", "morning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: good morning\n", "")


def test_ask_takes_what_is_piped_in_and_what_is_in_a_file(edgectl, tmp_path):
    assert edgectl("ask", input="from a pipe\n").stdout == "echo: from a pipe\n"
    assert edgectl("ask", "Sum up:", input="text\n").stdout == "echo: Sum up:\n\ntext\n"
    (tmp_path / "question").write_text("from a file\n")
    assert edgectl("ask", "--file", str(tmp_path / "question")).stdout == "echo: from a file\n"
    with (tmp_path / "question").open() as file:
        assert edgectl("ask", "--file", "-", stdin=file).stdout == "echo: from a file\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "no prompt"), (("--file", "/none"), "no file /none"), (("--raw", "--system", "s", "x"), "--raw")],
)
def test_ask_refuses_what_makes_no_sense_with_2(edgectl, arguments, said):
    done = edgectl("ask", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_ask_refuses_bytes_that_are_no_text(edgectl, tmp_path):
    (tmp_path / "binary").write_bytes(b"ok \xff")
    done = edgectl("ask", "--file", str(tmp_path / "binary"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "byte 3" in done.stderr


def test_ask_as_json_has_text_usage_and_times(edgectl):
    answer = json.loads(edgectl("ask", "--json", "--max-tokens", "3", "hi").stdout)
    assert answer["text"] == "ech"
    assert answer["finish"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["timings"]["total_ms"] > 0


def test_verbose_adds_one_line_on_standard_error(edgectl):
    done = edgectl("ask", "-v", "--no-stream", "hi")
    assert done.stdout == "echo: hi\n"
    assert "tok/s" in done.stderr


def test_ctrl_c_cancels_on_the_box_and_exits_130(box, edgectl):
    before = status_of(box).counters
    process = subprocess.Popen(
        [sys.executable, "-m", "edgectl", "ask", "--max-tokens", "2000", "x" * 3000],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=edgectl.environment,
    )  # fmt: skip
    with process:
        assert process.stdout.read(1) == b"e"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "Traceback" not in errors.decode()
    wait_until(lambda: status_of(box).running == 0, "the slot to be free", DEADLINE_S)
    assert status_of(box).counters.finished == before.finished


def test_a_reader_that_goes_away_cancels_on_the_box(box, edgectl):
    before = status_of(box).counters
    command = f"{sys.executable} -m edgectl ask --max-tokens 2000 {'x' * 3000} | head -c 3"
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=edgectl.environment,
        timeout=DEADLINE_S,
    )
    assert done.stdout == "ech"
    assert "Traceback" not in done.stderr
    wait_until(lambda: status_of(box).running == 0, "the slot to be free", DEADLINE_S)
    assert status_of(box).counters.finished == before.finished


def test_on_a_terminal_controls_of_the_answer_are_left_out(edgectl):
    """An answer must not be able to repaint the screen or set its title."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgectl", "ask", "a\x1b]0;title\x07b\x1b[2J"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL, env=edgectl.environment
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := read_terminal(ours):
            shown += chunk
        process.wait(DEADLINE_S)
    os.close(ours)
    assert b"echo: a" in shown
    assert b"\x1b" not in shown
    assert b"\x07" not in shown


def read_terminal(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side is closed
        return b""


def test_status_shows_the_box_and_exits_0(edgectl):
    done = edgectl("status")
    assert done.returncode == 0
    assert "ready" in done.stdout
    assert "512 MiB" in done.stdout
    status = json.loads(edgectl("status", "--json").stdout)
    assert status["state"] == "ready"


def test_without_its_key_the_box_refuses_over_http(box, tmp_path, edgectl):
    _, urls = box
    empty = {"EDGECTL_URL": urls["http"], "EDGECTL_KEY_FILE": ""}
    done = edgectl("ask", "hi", env=empty)
    assert done.returncode == 2
    assert "API key" in done.stderr
    assert "--key-file" in done.stderr


def test_nobody_there_is_5_with_what_to_do_next(edgectl):
    for scheme in ("http", "mqtt"):
        for verb in (("ask", "x"), ("status",)):
            done = edgectl(*verb, "--url", f"{scheme}://127.0.0.1:{free_port()}")
            assert done.returncode == 5
            assert "refused" in done.stderr
            assert "\u2192" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="for root the configuration is the system's")
def test_the_local_configuration_is_where_ask_looks_first(box, edgectl, tmp_path):
    daemon, _ = box
    place = tmp_path / "edged" / "edged.toml"
    place.parent.mkdir()
    place.write_text(daemon.config.read_text())
    done = edgectl("ask", "hi", env={"EDGECTL_URL": "", "EDGECTL_KEY_FILE": ""})
    assert done.stdout == "echo: hi\n"


def test_a_loading_box_is_75(tmp_path):
    (tmp_path / "model.fake").write_text("load_s = 60.0\n")
    tree = {"node": "slow", "model": {"path": str(tmp_path / "model.fake"), "backend": "fake"}}
    daemon = Daemon(tree, tmp_path)
    daemon.start(ready=False)
    try:
        wait_until(lambda: daemon.get("/healthz")[0] == 200, "the daemon to listen")
        command = [sys.executable, "-m", "edgectl", "status", "--url", daemon.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    finally:
        daemon.stop()
    assert done.returncode == 75, done
    assert "loading" in done.stdout


@pytest.mark.parametrize("state", ServiceState)
def test_every_state_has_its_exit_status(box, state):
    status = msgspec.structs.replace(status_of(box), state=state)
    assert isinstance(status, Status)
    expected = {"ready": 0, "degraded": 0, "starting": 75, "loading": 75, "draining": 6, "stopped": 6}
    assert exit_status(status) == expected[state.value]
    broken = msgspec.structs.replace(status, state=ServiceState.DEGRADED, engine="broken")
    assert exit_status(broken) == 6


def test_logs_say_where_the_log_is_when_there_is_no_journal(tmp_path):
    command = [sys.executable, "-m", "edgectl", "logs"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_S, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "no journalctl" in done.stderr
    assert "standard error" in done.stderr


def test_logs_refuse_a_count_that_is_none():
    command = [sys.executable, "-m", "edgectl", "logs", "-n", "--output=cat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (93784, "1 d 2 h"), (86400, "1 d")],
)
def test_durations_have_their_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("share", "full"), [(-1, 0), (0, 0), (0.5, 10), (1, 20), (7, 20)])
def test_a_bar_never_leaves_its_frame(share, full):
    assert bar(share).count("\u2588") == full
    assert len(bar(share)) == 20


def test_no_thread_outlives_its_client(url):
    before = threading.active_count()
    with client_of(url) as client:
        client.generate("x")
    assert threading.active_count() == before
