"""The entry of edgectl: outputs that end, are full or closed, and a stop before anything has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from edgectl.cli import cli
from edgectl.demo.session import Addresses, Kept, kept_path
from edgectl.output.outcome import run, show
from edged.api.errors import Busy
from tests.kit.stored_models import store_fake


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "plan --help",
        "plan --device pi5-8gb",
        "plan --device pi5-8gb --json",
        "probe",
        "probe --json",
        "models list --available",
        "config explain",
    ],
)
def test_a_closed_pipe_ends_a_command_silently_with_0(words):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "edgectl", *words.split()],
            stdin=subprocess.DEVNULL,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ["plan --device pi5-8gb", "plan --device pi5-8gb --json"])
def test_a_full_disk_is_named(words):
    done = _shell(f"{words} >/dev/full")
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_command_without_an_output_still_ends_well(closed):
    assert _shell(f"plan --device pi5-8gb {closed}").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ask --file - --url http://127.0.0.1:1", 'edgectl ask "your question"'),
        ("classify --choices yes,no --url http://127.0.0.1:1", 'edgectl classify "your question"'),
        ("models rm x", "there is no stored"),
    ],
)
def test_a_command_without_an_input_says_what_is_missing(words, said, tmp_path):
    done = _shell(f"{words} <&-", EDGED_STATE=str(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert "defect" not in done.stderr


def test_a_question_that_nobody_can_answer_is_no_defect_without_an_input(tmp_path):
    store_fake(tmp_path, "small")
    done = _shell("models rm small <&-", EDGED_STATE=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_a_locale_without_a_character_loses_the_character_and_not_the_command():
    done = _shell("models list --help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    done = _shell("probe", PYTHONIOENCODING="ascii")
    assert (done.returncode, "defect" in done.stderr) == (0, False)


def test_a_watch_for_people_is_not_mixed_with_json_for_programs():
    done = _shell("status --watch --json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "edgectl top --json" in done.stderr


def test_logs_as_json_are_the_lines_of_the_journal(tmp_path, monkeypatch):
    for name, says in (("systemctl", "echo LoadState=loaded"), ("journalctl", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("edgectl.install.systemd.BOOTED", tmp_path)
    called = []
    monkeypatch.setattr("os.execv", lambda _path, words: called.extend(words))
    assert run(cli, ["logs", "--json", "-n", "3"]) == 0
    assert called[0] == str(tmp_path / "journalctl")
    assert {"--unit=edged", "--lines=3", "--output=json"} <= set(called)


def test_a_demo_that_was_killed_leaves_no_folder_behind_a_stop(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "edged-demo-x"
    folder.mkdir()
    (folder / "edged.log").write_text("")
    kept = Kept(
        processes=(("edged", os.getpid(), "an earlier start"),),  # the pid is somebody else's by now
        folder=str(folder),
        addresses=Addresses(mqtt_port=1, http_port=1),
    )
    kept_path().parent.mkdir(parents=True)
    kept_path().write_bytes(msgspec.json.encode(kept))
    assert run(cli, ["demo", "--stop"]) == 2
    assert "no demo is running" in capsys.readouterr().err
    assert (folder.exists(), kept_path().exists()) == (False, False)


def test_a_stop_while_modules_load_is_silent(tmp_path):
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "edgectl", "plan"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def _shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m edgectl {words}'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_an_error_that_passes_says_when_to_try_again(capsys):
    show(Busy("the queue is full", retry_after_s=4.4))
    assert capsys.readouterr().err == "Error: the queue is full\n  → try again in 4 s\n"
