"""Processes of a demo: started in sessions of their own, waited for, ended for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from edgectl.errors import Unhealthy
from edged.host.files import read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

POLL_S = 0.05
STOP_S = 30.0  # the daemon lets running answers finish first


class Child:
    """A running program whose output goes to a file; ``stop`` may be called at any time, and again."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            # A session of its own: Ctrl-C is for us, who then end it in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises Unhealthy with the end of its log when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise Unhealthy(
                f"{self.name} ended with status {code}; the end of its log:\n{tail(self.log)}",
                hint="`edgectl probe` shows what this computer is short of; `edgectl demo` tries again",
            )

    def stop(self) -> None:
        """Ask it to end, wait, and kill it when it will not."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def tail(log: Path, lines: int = 8) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def wait_for_port(port: int, child: Child, limit_s: float = 20.0) -> None:
    """Until something listens on loopback ``port``; raises Unhealthy when ``child`` dies or never does."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        child.check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(POLL_S)
    raise Unhealthy(f"{child.name} does not listen on port {port} after {limit_s:.0f} s:\n{tail(child.log)}")


def choose_port(preferred: int) -> int:
    """``preferred`` when nobody uses it, any free loopback port otherwise."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unhealthy("there is no free port on the loopback interface")


def started_at(pid: int) -> str | None:
    """The kernel's start time of a process, which tells a reused pid from the old one; None: it is gone."""
    text = read_text(ROOT / f"proc/{pid}/stat")
    fields = text.rsplit(")", 1)[-1].split() if text else []
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else None


def end_process(pid: int, start: str) -> bool:
    """End a process of an earlier run; False when it is gone already (or the pid is someone else's)."""
    if started_at(pid) != start:
        return False
    for number, limit_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + limit_s
        while started_at(pid) == start:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        else:
            return True
    raise Unhealthy(f"process {pid} does not end")
