"""Trying model files in a real worker: results, and nothing left behind however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgectl.errors import DeviceUnsupported, NothingFits
from edgectl.planning import dryrun
from edgectl.planning.dryrun import (
    EngineSettings,
    Stopped,
    dry_run,
    dry_run_replica,
)
from edged.api.measuring import Loaded, Result, Workload
from tests.kit.daemon import alive, wait_until
from tests.kit.service import fake_model
from tests.kit.tiny_network import large_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = EngineSettings(context=512, slots=4, ubatch=32)

# Started as a program of its own, so that signals reach it as they reach edgectl.
PROGRAM = """
import signal, sys
from pathlib import Path
from edgectl.models.replica import replica
from edgectl.planning.dryrun import EngineSettings, dry_run
from tests.kit.tiny_network import large_plan
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.default_int_handler)
with replica(large_plan(), Path(sys.argv[1])):
    dry_run(Path(sys.argv[2]), EngineSettings(context=512), backend="fake")
"""


def children(pid: int) -> list[int]:
    """Every descendant, the nearest first."""
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [one for child in found for one in children(child)]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No test leaves a process of its own."""
    before = set(children_of_tests())
    yield
    wait_until(lambda: set(children_of_tests()) <= before, "the processes to be gone")


def children_of_tests() -> list[int]:
    import os

    return children(os.getpid())


def test_each_workload_gives_a_result_and_an_event(tmp_path):
    events = []
    workloads = (Workload(depth=64, prefill_tokens=64, decode_steps=4), Workload(batch=4, decode_steps=2))
    done = dry_run(
        fake_model(tmp_path, step_s=0.002), SETTINGS, workloads, backend="fake", on_event=events.append
    )
    assert [type(event) for event in events] == [Loaded, Result, Result]
    assert tuple(one.workload for one in done.results) == workloads
    assert done.results[0].measured.prefill_tps > 0
    assert done.results[0].measured.step_ms >= 2
    assert done.peak.anon_bytes > 1 << 20


@pytest.mark.parametrize(
    ("script", "fields", "reason", "word"),
    [
        ({"load_error": "teapot"}, {}, "lost", "teapot"),
        ({"crash_signal": "SIGSEGV", "crash_phase": "decode"}, {}, "lost", "SIGSEGV"),
        ({"crash_signal": "GARBAGE", "crash_phase": "decode"}, {}, "lost", "stopped"),
        ({"load_s": 30}, {"limit_s": 1.0}, "timeout", "1 s"),
        ({"load_s": 30}, {"min_available_bytes": 1 << 60}, "pressure", "available"),
    ],
)
def test_what_goes_wrong_is_one_error_with_its_reason(tmp_path, script, fields, reason, word):
    with pytest.raises(Stopped, match=word) as caught:
        dry_run(
            fake_model(tmp_path, **script), SETTINGS, (Workload(decode_steps=2),), backend="fake", **fields
        )
    assert caught.value.reason == reason


def test_a_caller_that_stops_listening_ends_the_run(tmp_path):
    def refuse(_event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dry_run(
            fake_model(tmp_path, step_s=0.01),
            SETTINGS,
            (Workload(decode_steps=256),) * 100,
            backend="fake",
            on_event=refuse,
        )


def test_settings_that_the_runner_refuses_are_one_error(tmp_path):
    with pytest.raises(Stopped, match="not an order"):
        dry_run(fake_model(tmp_path), EngineSettings(context=512, kv_type="q2"), backend="fake")


def test_a_replica_is_gone_after_a_failure(tmp_path):
    # The scripted engine cannot read a replica, so loading fails.
    with pytest.raises(Stopped, match="cannot be loaded"):
        dry_run_replica(large_plan(), tmp_path, SETTINGS, backend="fake")
    assert list(tmp_path.iterdir()) == []


def test_a_replica_that_would_starve_the_host_is_not_even_written(tmp_path):
    folder = tmp_path / "replicas"
    with pytest.raises(NothingFits, match="does not fit") as caught:
        dry_run_replica(large_plan(), folder, SETTINGS, min_available_bytes=1 << 60, backend="fake")
    assert "fewer layers" in caught.value.hint
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_neither_file_nor_process(tmp_path, number):
    folder = tmp_path / "replicas"
    model = fake_model(tmp_path, load_s=60)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(model)], stderr=subprocess.PIPE
    ) as program:
        wait_until(lambda: len(children(program.pid)) >= 2, "the runner and its worker")
        processes = children(program.pid)
        assert len(list(folder.iterdir())) == 1
        program.send_signal(number)
        program.communicate(timeout=40)
    assert list(folder.iterdir()) == []
    wait_until(lambda: not any(alive(pid) for pid in processes), "runner and worker to be gone")


def test_without_the_engine_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setattr(dryrun.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DeviceUnsupported) as caught:
        dryrun.require_engine()
    assert 'pip install "edged[daemon]"' in caught.value.hint
