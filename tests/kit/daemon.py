"""The real `edged` as a process of its own, with a configuration file and a log a test can read."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 60.0


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def to_toml(tree: dict[str, Any]) -> str:
    """A configuration tree (two levels) as TOML text."""
    top = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for section, values in tree.items():
        if isinstance(values, dict):
            inner = {key: value for key, value in values.items() if not isinstance(value, dict)}
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in inner.items())]
            for name, table in values.items():
                if isinstance(table, dict):
                    lines += [f"[{section}.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = DEADLINE_S) -> Any:
    """Poll ``condition`` until it holds; fails, naming ``what``, after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited {limit_s:.0f} s in vain for {what}")


class Daemon:
    """One `edged` process; ``start`` may be called again after it has ended."""

    def __init__(self, tree: dict[str, Any], folder: Path, *, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        tree = {"discovery": {"enabled": False}, "mqtt": {"enabled": False}, **tree}
        tree["http"] = {"port": self.port, **tree.get("http", {})}
        self.state = folder / "state"
        tree.setdefault("state_dir", str(self.state))
        self.config = folder / "edged.toml"
        self.config.write_text(to_toml(tree))
        self.log_path = folder / "edged.log"
        self._env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, *, ready: bool = True) -> Daemon:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edged", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env,
            )  # fmt: skip
        if ready:
            wait_until(self.ready, f"edged to be ready; its log:\n{self.log}")
        return self

    def ready(self) -> bool:
        if self.process and self.process.poll() is not None:
            raise AssertionError(f"edged ended with {self.process.returncode}:\n{self.log}")
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET; (0, None) when nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")
        except (urllib.error.URLError, OSError):
            return 0, None

    def status(self) -> dict[str, Any]:
        code, body = self.get("/status")
        assert code == 200, (code, body, self.log)
        return body

    def chat(self, text: str, timeout_s: float = 60.0, **fields: Any) -> tuple[int, Any]:
        """Status and JSON of one chat completion."""
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def wait(self, limit_s: float = 30.0) -> int:
        assert self.process
        return self.process.wait(limit_s)

    def stop(self) -> int:
        """SIGTERM and the exit status; SIGKILL when that is not enough."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"edged did not stop:\n{self.log}") from None


@contextlib.contextmanager
def running_daemon(tree: dict[str, Any], folder: Path, **options: Any) -> Iterator[Daemon]:
    """A started, ready daemon that is stopped at the end."""
    daemon = Daemon(tree, folder, **options)
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
