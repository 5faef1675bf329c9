"""The peers as servers: each a program of this folder in an environment of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.bench.conditions import LLAMA_CPP_PYTHON, LLAMA_SERVER, START_LIMIT_S, instruction_sets
from tests.bench.errors import BenchError
from tests.bench.http_client import answers
from tests.bench.peers.environment import native_llama_server, peer_python
from tests.kit.daemon import free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.conditions import Conditions

PROGRAMS = "tests/bench/peers"
READY = re.compile(r"^ready\b", re.MULTILINE)


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
        return instruction_sets(self.log())

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
