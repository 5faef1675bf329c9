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

import llama_cpp.llama_cpp as library
from msgspec import Struct

from edged.api.config import Memory
from edged.host.cpus import compute_threads
from tests.bench.errors import BenchError
from tests.bench.peers.environment import native_llama_server, peer_python
from tests.kit.daemon import Daemon, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.options import Options

EDGED = "edged"
LLAMA_SERVER = "llama-server"
LLAMA_CPP_PYTHON = "llama-cpp-python"

START_LIMIT_S = 120.0
PROGRAMS = "tests/bench/peers"
READY = re.compile(r"^ready\b", re.MULTILINE)
KERNELS = re.compile(r"CPU : .*")  # how llama_print_system_info begins
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
            "memory for prompts": f"edged keeps beginnings of prompts in up to {Memory().cache_mib} MiB, "
            "llama-server whole ones in up to 8192 MiB, each by its default",
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
        self,
        folder: Path,
        conditions: Conditions,
        sections: dict[str, dict[str, Any]] | None = None,
        *,
        name: str = EDGED,
    ) -> None:
        self.name = name
        folder = folder / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        self.daemon = Daemon(edged_tree(conditions, sections or {}), folder)
        self.port = self.daemon.port

    def start(self) -> None:
        self.daemon.start(ready=False)
        try:
            wait_until(self.daemon.ready, "edged to be ready", START_LIMIT_S)
        except AssertionError as error:
            raise BenchError(f"{error}; its log:\n{self.log()[-3000:]}") from None

    def stop(self) -> None:
        self.daemon.stop()

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields

    def kernels(self) -> str:
        return _kernels(library.llama_print_system_info().decode())

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
    """A program of ``tests/bench/peers`` in its environment; it ends when we do, however that comes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The program of ``tests/bench/peers`` with its interpreter and arguments."""
        raise NotImplementedError

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields

    def start(self) -> None:
        command = self.command()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            wait_until(self._listens, f"{self.name} to be ready", START_LIMIT_S)
        except AssertionError as error:
            raise BenchError(f"{error}; its log:\n{self.log()[-3000:]}") from None

    def _listens(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._process.returncode}:\n{self.log()[-3000:]}")
        from tests.bench.http_client import answers

        return READY.search(self.log()) is not None and answers(self.port, "/v1/models")

    def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kernels(self) -> str:
        return _kernels(self.log())

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
        super().__init__(name, folder)
        self._conditions = conditions
        self._batch = batch

    def command(self) -> list[str]:
        conditions = self._conditions
        own = {"n_batch": self._batch, "n_ubatch": self._batch} if self._batch else {}
        parameters = {
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
        return [str(peer_python("xllamacpp")), f"{PROGRAMS}/llama_server.py", json.dumps(parameters)]

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "ignore_eos": True} if "response_format" not in fields else fields


class NativeLlamaServer(LlamaServer):
    """The same, compiled for this CPU."""

    def command(self) -> list[str]:
        conditions = self._conditions
        batch = str(self._batch)
        return [
            sys.executable, f"{PROGRAMS}/native_llama_server.py", str(native_llama_server()),
            "--model", conditions.model,
            "--ctx-size", str(conditions.context * conditions.slots),
            "--parallel", str(conditions.slots),
            "--threads", str(conditions.used_threads),
            "--threads-batch", str(conditions.used_threads),
            "--no-repack", "--fit", "off", "--no-ui", "--host", "127.0.0.1", "--port", str(self.port),
            *(("--batch-size", batch, "--ubatch-size", batch) if self._batch else ()),
        ]  # fmt: skip


class LlamaCppPython(Peer):
    """llama-cpp-python's server: one request at a time; the others wait for it."""

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        super().__init__(LLAMA_CPP_PYTHON, folder)
        self._conditions = conditions

    def command(self) -> list[str]:
        conditions = self._conditions
        settings = {
            "model": conditions.model,
            "port": self.port,
            "n_ctx": conditions.context,
            "n_threads": conditions.used_threads,
            "n_threads_batch": conditions.used_threads,
            "logits_all": False,  # its server's default computes the logits of every prompt token
            "flash_attn": True,  # the others choose, and choose it
        }
        return [str(peer_python("llama-cpp-python")), f"{PROGRAMS}/llama_cpp_python.py", json.dumps(settings)]

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Without what its bodies do not know."""
        return {name: value for name, value in fields.items() if name != "stream_options"}


def _kernels(text: str) -> str:
    """What llama_print_system_info says in ``text`` of what every x86-64 CPU of ten years does not have."""
    found = KERNELS.search(text)
    names = re.findall(r"([A-Z]\w+) = 1", found.group(0)) if found else []
    return " ".join(name for name in names if name not in {"SSE3", "SSSE3", "LLAMAFILE", "REPACK", "OPENMP"})


def kernels(servers: list[Edged | Peer]) -> dict[str, str]:
    """For a report: the instruction sets that each of the started ``servers`` uses."""
    return {"kernels": "; ".join(f"{server.name}: {server.kernels()}" for server in servers)}


def edged_and_llama_server(
    options: Options, conditions: Conditions, *variants: tuple[str, int]
) -> list[Edged | Peer]:
    """Edged first, then llama-server if it was chosen, and ``variants`` of it: name and batch."""
    kind = NativeLlamaServer if options.native else LlamaServer
    peers: list[Edged | Peer] = [
        kind(options.folder, conditions, name=name, batch=batch)
        for name, batch in ((LLAMA_SERVER, 0), *variants)
        if LLAMA_SERVER in options.peers
    ]
    return [Edged(options.folder, conditions), *peers]


def edged_and_peers(options: Options, conditions: Conditions) -> list[Edged | Peer]:
    """Edged first, then the peers that were chosen."""
    servers = edged_and_llama_server(options, conditions)
    if LLAMA_CPP_PYTHON in options.peers:
        servers.append(LlamaCppPython(options.folder, conditions))
    return servers


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
