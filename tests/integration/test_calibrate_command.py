"""`edgectl calibrate` with the real engine, and what it says without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgectl.commands.calibrate import command
from edgectl.errors import DeviceUnsupported
from edgectl.planning import dryrun
from tests.kit.daemon import alive, wait_until


def edgectl(state: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgectl", *arguments],
        env={**os.environ, "EDGED_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.model
def test_a_short_calibration_is_kept_and_used(tmp_path):
    pytest.importorskip("llama_cpp")
    with edgectl(tmp_path, "calibrate", "--seconds", "5", "--threads", "1", "--json") as process:
        out, err = process.communicate(timeout=170)
    assert process.returncode == 0, err
    tree = json.loads(out)
    assert tree["threads"] == 1
    assert [one["tokens"] for one in tree["steps"]] == [1, 4, 128]
    assert tree["steps"][0]["weight_s"]["Q4_K"] > 0
    assert [one.name for one in tmp_path.iterdir()] == ["calibration.json"]
    with edgectl(tmp_path, "plan", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert json.loads(out)["candidates"][0]["speed"]["kind"] == "measured", err


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_calibration_that_is_stopped_leaves_nothing(tmp_path, number):
    pytest.importorskip("llama_cpp")
    replicas = tmp_path / "replicas"
    with edgectl(tmp_path, "calibrate", "--seconds", "60") as process:
        tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        runner = int(wait_until(tasks.read_text, "the runner").split()[0])
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode not in {0, 1}
    # One that was just being started when the signal came notices by itself that its parent is gone.
    wait_until(lambda: not alive(runner), "the runner to end")
    assert not replicas.exists()
    assert not (tmp_path / "calibration.json").exists()


def test_without_the_engine_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGED_STATE", str(tmp_path))
    monkeypatch.setattr(dryrun.importlib.util, "find_spec", lambda _name: None)
    result = CliRunner().invoke(command, ["--seconds", "5"])
    assert isinstance(result.exception, DeviceUnsupported)
    assert "pip install" in result.exception.hint
    assert list(tmp_path.iterdir()) == []
