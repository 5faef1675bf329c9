"""The servers that are measured: edged, llama-server and llama-cpp-python's; each a process of its own.

All of them get the same file, threads, tokens a client and number of clients, and no weight repacking. What
only one of them has stays at that server's default.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from edged.host.cpus import compute_threads
from tests.bench.peers.environment import peer_python
from tests.kit.daemon import Daemon, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.options import Options

EDGED = "edged"
LLAMA_SERVER = "llama-server"
LLAMA_CPP_PYTHON = "llama-cpp-python"

START_LIMIT_S = 300.0
PROGRAMS = "tests/bench/peers"
READY = re.compile(r"^ready (.*)$", re.MULTILINE)
SAME_CONDITIONS = (
    "no weight repacking anywhere (edged: repack = off, llama-server: --no-repack, llama-cpp-python: "
    "use_extra_bufts = False)"
)


class Conditions(Struct, frozen=True, kw_only=True):
    """What every server is started with; ``context`` counts tokens of one client."""

    model: str
    context: int
    slots: int
    threads: int = 0
    ubatch: int = 64  # edged's step; peers keep their defaults, which read prompts faster

    @property
    def used_threads(self) -> int:
        return self.threads or compute_threads()

    def describe(self) -> dict[str, str]:
        return {
            "limits": f"{self.slots} clients of {self.context} tokens, {self.used_threads} threads, KV f16, "
            f"greedy; edged computes in steps of {self.ubatch} tokens, peers in those of their defaults",
            "conditions": SAME_CONDITIONS,
        }


class Server(Protocol):
    """A server that listens on loopback ``port`` and speaks the OpenAI dialect."""

    name: str
    port: int

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        """``fields`` of a request as this server wants them."""

    def kernels(self) -> str:
        """Instruction sets its build of llama.cpp uses."""

    def log(self) -> str: ...

    def pids(self) -> list[int]: ...


class Edged:
    """The daemon, started as tests start it; ``sections`` are merged into its configuration."""

    def __init__(
        self, folder: Path, conditions: Conditions, sections: dict[str, dict[str, Any]] | None = None
    ) -> None:
        self.name = EDGED
        self.daemon = Daemon(edged_tree(conditions, sections or {}), folder)
        self.port = self.daemon.port

    def start(self) -> None:
        self.daemon.start(ready=False)
        wait_until(self.daemon.ready, "edged to be ready", START_LIMIT_S)

    def stop(self) -> None:
        self.daemon.stop()

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields

    def kernels(self) -> str:
        return "those of llama-cpp-python"

    def log(self) -> str:
        return self.daemon.log

    def pids(self) -> list[int]:
        return [self.daemon.pid, self.worker_pid()]

    def worker_pid(self) -> int:
        return int(self.daemon.status()["worker_pid"])


def edged_tree(conditions: Conditions, sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The configuration of a daemon under ``conditions``."""
    tree: dict[str, Any] = {
        "node": "bench",
        "model": {
            "path": conditions.model,
            "context": conditions.context,
            "slots": conditions.slots,
            "ubatch": conditions.ubatch,
            "threads": conditions.used_threads,
            "repack": "off",
            "sampling": {"temperature": 0.0},
        },
    }
    for section, values in sections.items():
        tree.setdefault(section, {}).update(values)
    return tree


class Peer:
    """A program of ``tests/bench/peers`` in its environment; it ends with our end of its standard input."""

    def __init__(self, name: str, environment: str, program: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self._environment = environment
        self._program = program
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def parameters(self) -> dict[str, Any]:
        raise NotImplementedError

    def start(self) -> None:
        command = [
            str(peer_python(self._environment)),
            f"{PROGRAMS}/{self._program}",
            json.dumps(self.parameters()),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_until(self._listens, f"{self.name} to be ready", START_LIMIT_S)

    def _listens(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{self.log()[-3000:]}")
        from tests.bench.http_client import answers

        return READY.search(self.log()) is not None and answers(self.port, "/v1/models")

    def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kernels(self) -> str:
        found = READY.search(self.log())
        said = json.loads(found.group(1))["kernels"] if found else ""
        names = re.findall(r"(\w+) = 1", said)
        return " ".join(name for name in names if name not in {"SSE3", "SSSE3", "LLAMAFILE", "REPACK"})

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def pids(self) -> list[int]:
        assert self._process
        return [self._process.pid]


class LlamaServer(Peer):
    """xllamacpp's in-process llama-server. ``batch`` is its n_batch, the most tokens between two rounds."""

    def __init__(
        self, folder: Path, conditions: Conditions, *, name: str = LLAMA_SERVER, batch: int = 0
    ) -> None:
        super().__init__(name, "xllamacpp", "llama_server.py", folder)
        self._conditions = conditions
        self._batch = batch

    def parameters(self) -> dict[str, Any]:
        conditions = self._conditions
        own = {"n_batch": self._batch, "n_ubatch": self._batch} if self._batch else {}
        return {
            "model.path": conditions.model,
            "n_ctx": conditions.context * conditions.slots,
            "n_parallel": conditions.slots,
            "cpuparams.n_threads": conditions.used_threads,
            "cpuparams_batch.n_threads": conditions.used_threads,
            "n_gpu_layers": 0,
            "no_extra_bufts": True,
            "fit_params": False,
            "ui": False,
            "hostnames": ["127.0.0.1"],
            "port": self.port,
            **own,
        }

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "ignore_eos": True} if fields.get("max_tokens") else fields


class LlamaCppPython(Peer):
    """llama-cpp-python's server: one request at a time; the others wait for it."""

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        super().__init__(LLAMA_CPP_PYTHON, "llama-cpp-python", "llama_cpp_python.py", folder)
        self._conditions = conditions

    def parameters(self) -> dict[str, Any]:
        conditions = self._conditions
        return {
            "model": conditions.model,
            "port": self.port,
            "n_ctx": conditions.context,
            "n_threads": conditions.used_threads,
            "n_threads_batch": conditions.used_threads,
            "logits_all": False,  # its server's default computes the logits of every prompt token
            "flash_attn": True,  # the others choose, and choose it
        }

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Without what its bodies do not know."""
        return {name: value for name, value in fields.items() if name != "stream_options"}


def contestants(options: Options, conditions: Conditions) -> list[Edged | Peer]:
    """Edged first, then the peers that were chosen."""
    known = {LLAMA_SERVER: LlamaServer, LLAMA_CPP_PYTHON: LlamaCppPython}
    chosen = [kind(options.folder, conditions) for name, kind in known.items() if name in options.peers]
    return [Edged(options.folder, conditions), *chosen]


@contextlib.contextmanager
def started(*servers: Edged | Peer) -> Iterator[None]:
    """All of ``servers``, loaded and idle; stopped at the end, however it comes."""
    try:
        for server in servers:
            print(f"  starting {server.name}", file=sys.stderr, flush=True)
            server.start()
        yield
    finally:
        for server in servers:
            with contextlib.suppress(AssertionError):  # a daemon that was never started
                server.stop()
