"""What all servers are started with, and what one of them is to a client."""

from __future__ import annotations

import re
from typing import Any, Protocol

from msgspec import Struct

from edged.api.config import Memory
from edged.host.cpus import compute_threads

EDGED = "edged"
LLAMA_SERVER = "llama-server"
LLAMA_CPP_PYTHON = "llama-cpp-python"

START_LIMIT_S = 120.0
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


def instruction_sets(text: str) -> str:
    """What llama_print_system_info says in ``text`` of what every x86-64 CPU of ten years does not have."""
    found = KERNELS.search(text)
    names = re.findall(r"([A-Z]\w+) = 1", found.group(0)) if found else []
    return " ".join(name for name in names if name not in {"SSE3", "SSSE3", "LLAMAFILE", "REPACK", "OPENMP"})
