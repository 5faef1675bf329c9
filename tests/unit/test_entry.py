"""The entry of edgectl: outputs that end, are full or closed, and a stop before anything has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from edgectl.output.outcome import show
from edged.api.errors import Busy


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


def _shell(words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m edgectl {words}'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_error_that_passes_says_when_to_try_again(capsys):
    show(Busy("the queue is full", retry_after_s=4.4))
    assert capsys.readouterr().err == "Error: the queue is full\n  → try again in 4 s\n"
