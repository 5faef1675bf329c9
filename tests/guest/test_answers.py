"""The installed service answers, hardened as it is, and keeps devices apart."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.guest import machine
from tests.guest.devices import answer, asking, hearing, publish
from tests.guest.machine import NODE, chat, run, shown, systemctl, until, web

pytestmark = pytest.mark.usefixtures("steady")


def test_devices_are_answered_by_password_and_by_certificate():
    assert answer(asking("cam", "Is 7 a prime number?"))["ok"]
    assert answer(asking("cam", "Is 7 a prime number?", tls=True))["ok"]
    body = chat("Is 7 a prime number?")
    assert machine.answered(web("/v1/chat/completions", key=machine.own_key(), body=body))


def test_a_device_hears_no_other_and_asks_in_no_others_name():
    with hearing("door", "#", f"edged/{NODE}/response/cam/#", f"edged/{NODE}/stream/cam") as heard:
        assert answer(asking("cam", "Say hello.", stream=True))["ok"]
        assert publish("door", f"edged/{NODE}/request/cam/chat", '{"prompt": "x"}') == 135  # not authorized
        assert publish("door", f"edged/{NODE}/job/switch/x", '{"state": "init"}', "-r") == 135
        aimed = json.dumps({"id": "1", "prompt": "x", "reply_to": f"edged/{NODE}/response/cam/chat"})
        assert publish("door", f"edged/{NODE}/request/door/chat", aimed) in {0, 16}
        until(lambda: any("/response/door/chat" in line for line in heard), "the refusal", 20)
    assert not [line for line in heard if "/cam" in line.split()[0]]
    assert "bad_request" in next(line for line in heard if "/response/door/chat" in line)


def test_the_unit_is_accepted_and_exposes_little():
    assert run("systemd-analyze", "verify", "/etc/systemd/system/edged.service") == ""
    said = run("systemd-analyze", "security", "edged")
    assert float(said.partition("level for edged.service: ")[2].split()[0]) <= 2.0


def test_a_service_that_reads_the_password_has_it_from_systemd_alone():
    assert shown("DynamicUser") == "yes"
    assert machine.PASSWORD_FILE.stat().st_mode & 0o077 == 0
    handed_over = "/run/credentials/edged.service/mqtt-password"
    assert "Permission denied" in run("runuser", "-u", "nobody", "--", "cat", handed_over, ok=False)


@pytest.mark.usefixtures("_quiet_cores")
def test_a_crash_leaves_no_dump_and_the_next_request_is_answered():
    supervisor = shown("MainPID")
    for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL):
        before = machine.status()["worker_pid"]
        os.kill(before, number)
        until(lambda before=before: machine.status()["worker_pid"] not in {None, before}, "another worker")
        assert answer(asking("cam", "Say hello."))["ok"]
    assert shown("MainPID") == supervisor


@pytest.fixture
def _quiet_cores(tmp_path):
    """The kernel writes dumps here, if any."""
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    pattern.write_text(f"{tmp_path}/core.%p")
    yield
    pattern.write_text(before)
    assert not list(tmp_path.glob("core.*"))


def test_a_stop_and_a_start_are_no_reason_to_warn():
    systemctl("restart", "edged")
    said = run("journalctl", "-u", "edged", "--no-pager", "-o", "cat")
    assert "edged: stopped" in said
    assert "WARNING asyncio" not in said
