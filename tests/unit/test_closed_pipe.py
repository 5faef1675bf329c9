"""A reader that has seen enough (`edgectl … | head`) is no error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


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
