"""A real mosquitto on a free loopback port: started with a given configuration, killed, restarted."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

START_DEADLINE_S = 10.0
# Debian keeps daemons where the PATH of an ordinary user does not look.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """``with Broker(tmp_path, "allow_anonymous true") as broker``; ``broker.log`` is what it said.

    ``tls`` is its certificate and key; ``plain`` opens one more port without it. ``lines`` hold for ``port``.
    """

    def __init__(
        self, directory: Path, *lines: str, tls: tuple[Path, Path] | None = None, plain: bool = False
    ) -> None:
        assert MOSQUITTO, "mosquitto is not installed"
        self.port = free_port()
        self.log = directory / "mosquitto.log"
        self._config = directory / "mosquitto.conf"
        self._database = directory / "mosquitto.db"
        listener = []
        if plain:
            self.plain_port = free_port()
            listener += [f"listener {self.plain_port} 127.0.0.1"]
        listener += [f"listener {self.port} 127.0.0.1"]
        if tls:
            listener += [f"certfile {tls[0]}", f"keyfile {tls[1]}"]
        rules = lines or ("allow_anonymous true",)
        kept = ("persistence true", f"persistence_location {directory}/", "autosave_interval 1")
        root = ("user root",) if Path("/proc/self").stat().st_uid == 0 else ()
        self._config.write_text("\n".join([*listener, *kept, *root, "log_type all", *rules, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stdout=log, stderr=log)
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"mosquitto did not start:\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """SIGTERM writes the sessions down; SIGKILL is the power cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # a stopped process takes no other signal
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    def save(self) -> None:
        """Have what is in memory written down, and wait until it is."""
        assert self._process
        written = self._database.stat().st_mtime_ns if self._database.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._database.exists() or self._database.stat().st_mtime_ns == written:
            assert time.monotonic() < deadline, "mosquitto did not save"
            time.sleep(0.005)

    def freeze(self) -> None:
        """The broker is there and does nothing, like a host that ran out of memory."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
