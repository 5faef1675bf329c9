"""`python -m edged.measure` with the scripted engine: results, failures, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.daemon import alive, wait_until
from tests.kit.service import fake_model

OPTIONS = {"context": 512, "slots": 4, "ubatch": 32, "threads": 1}


def start(order: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edged.measure"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(order if isinstance(order, str) else json.dumps(order))
    process.stdin.close()
    process.stdin = None
    return process


def measure(order: object) -> tuple[int, list[dict], str]:
    with start(order) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def order(path, **fields) -> dict:
    return {"path": str(path), "backend": "fake", "options": OPTIONS, **fields}


def test_each_workload_is_timed_and_memory_is_seen(tmp_path):
    workloads = [
        {"depth": 64, "prefill_tokens": 64, "decode_steps": 4},
        {"batch": 4, "depth": 8, "decode_steps": 4},
    ]
    code, events, _ = measure(order(fake_model(tmp_path, step_s=0.002), workloads=workloads))
    assert code == 0
    assert [event["type"] for event in events] == ["loaded", "measured", "measured"]
    alone, four = events[1]["measured"], events[2]["measured"]
    assert alone["prefill_tps"] > 0
    assert alone["step_ms"] >= 2
    # The scripted engine takes as long for four sequences as for one.
    assert four["decode_tps"] > 2 * alone["decode_tps"]
    assert events[-1]["peak"]["anon_bytes"] > 1 << 20


@pytest.mark.parametrize(
    ("script", "fields", "code", "word"),
    [
        ({"load_error": "teapot"}, {}, "lost", "teapot"),
        ({"crash_signal": "SIGSEGV", "crash_phase": "prefill"}, {}, "lost", "SIGSEGV"),
        ({"load_s": 30}, {"limit_s": 1.0}, "timeout", "1 s"),
        ({"load_s": 30}, {"min_available_bytes": 1 << 60}, "pressure", "available"),
    ],
)
def test_what_goes_wrong_is_one_failed_event(tmp_path, script, fields, code, word):
    status, events, _ = measure(order(fake_model(tmp_path, **script), **fields))
    assert status == 1
    assert events[-1]["type"] == "failed"
    assert events[-1]["code"] == code
    assert word in events[-1]["message"]


@pytest.mark.parametrize("text", ["", "{", '{"path": 1}', '{"path": "x", "options": {}, "more": 1}'])
def test_an_order_that_is_none_is_refused(text):
    status, events, err = measure(text)
    assert (status, events) == (2, [])
    assert "not an order" in err


def test_ctrl_c_ends_the_worker_too(tmp_path):
    with start(order(fake_model(tmp_path, load_s=60))) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        worker = int(wait_until(children.read_text, "the worker").split()[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert not alive(worker)
