"""The service manager is told what happens, and its absence is no error."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from edged.host.sdnotify import notify, watchdog_interval_s
from edged.host.start_up import EXTENSION_S, REPEAT_S, StartUp


@pytest.fixture
def manager(request, monkeypatch, tmp_path):
    """The receiving end: a datagram socket at a path or in the abstract namespace."""
    kind = getattr(request, "param", "path")
    shown = str(tmp_path / "notify") if kind == "path" else f"@edged-test-{os.getpid()}-{tmp_path.name}"
    bound = shown if kind == "path" else "\0" + shown[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(bound)
        monkeypatch.setenv("NOTIFY_SOCKET", shown)
        yield receiver


@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
def test_a_state_arrives_in_one_piece(manager):
    assert notify("READY=1\nSTATUS=serves ¾ of the model")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=serves ¾ of the model"


def test_without_a_manager_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1") is False


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_an_address_of_another_kind_is_left_alone(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify("READY=1") is False


def test_a_manager_that_is_gone_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert notify("WATCHDOG=1") is False


def test_a_manager_that_does_not_read_is_waited_for_a_bounded_time(manager, monkeypatch):
    monkeypatch.setattr("edged.host.sdnotify.SEND_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
        filler.settimeout(0)
        while True:
            filler.sendto(b"x", os.environ["NOTIFY_SOCKET"])
    assert notify("WATCHDOG=1") is False


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("60000000", "", 30.0),
        ("60000000", str(os.getpid()), 30.0),
        ("60000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(monkeypatch, usec, pid, expected):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_interval_s() == expected


def heard(manager: socket.socket) -> list[str]:
    manager.settimeout(0)
    said = []
    with contextlib.suppress(BlockingIOError):
        while True:
            said.append(manager.recv(4096).decode())
    return said


def test_while_no_model_can_be_loaded_the_start_is_given_more_time_and_is_not_called_ready(manager):
    now = 0.0
    start = StartUp(lambda: now)
    said = []
    for now in range(3600):
        start.failing()
        said += [(now, word) for word in heard(manager)]
    assert {word for _, word in said} == {f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}"}
    assert [at for at, _ in said] == list(range(0, 3600, int(REPEAT_S)))
    assert REPEAT_S < EXTENSION_S / 2


def test_ready_is_said_once_and_nothing_is_extended_afterwards(manager):
    start = StartUp(lambda: 1000.0)
    assert [start.ready(), start.ready()] == [True, False]
    start.failing()
    assert heard(manager) == ["READY=1"]
