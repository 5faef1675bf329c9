"""A daemon that hangs or dies is systemd's to start anew."""

from __future__ import annotations

import os
import signal

import pytest

from tests.guest import machine
from tests.guest.devices import answer, asking, wait_online
from tests.guest.machine import run, shown, until


@pytest.mark.timeout(400)
def test_a_daemon_that_hangs_is_started_anew_by_the_watchdog():
    before = shown("MainPID")
    os.kill(int(before), signal.SIGSTOP)
    until(lambda: shown("MainPID") not in {"0", before}, "another daemon", 240)
    wait_online()
    assert "Watchdog timeout" in run("journalctl", "-u", "edged", "--no-pager")


def test_a_killed_daemon_comes_back_and_leaves_no_process():
    before = machine.processes()
    os.kill(int(shown("MainPID")), signal.SIGKILL)
    until(lambda: not {*before} & {*machine.processes()}, "the end of all its processes")
    until(lambda: shown("ActiveState") == "active", "it to be back")
    wait_online()
    assert answer(asking("cam", "Say hello.", tls=True))["ok"]
