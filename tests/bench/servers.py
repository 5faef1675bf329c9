"""The servers of a scenario: edged first, then its peers; started together, stopped together.

All of them get the same file, threads, tokens a client and number of clients, and no weight repacking. What
only one of them has stays at that server's default.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as library

from tests.bench.conditions import (
    EDGED,
    LLAMA_CPP_PYTHON,
    LLAMA_SERVER,
    START_LIMIT_S,
    Conditions,
    instruction_sets,
)
from tests.bench.errors import BenchError
from tests.bench.peers.servers import LlamaCppPython, LlamaServer, NativeLlamaServer, Peer
from tests.kit.daemon import Daemon, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.options import Options


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
        return instruction_sets(library.llama_print_system_info().decode())

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
