"""What the engine's memory is used for, from the sizes that llama.cpp tells while it loads. Pure."""

from __future__ import annotations

import re

from edged.api.status import MemoryParts

# llama_kv_cache:        CPU KV buffer size =    90.00 MiB
BUFFER = re.compile(r"(\S+) +(model|output|KV|RS|compute) buffer size = +([0-9.]+) (B|KiB|MiB|GiB)\b")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
MAPPED_SUFFIX = "_Mapped"  # pages of the model's file


class EngineBuffers:
    """Hears the log of one load."""

    def __init__(self) -> None:
        self._mapped = 0
        self._summed = {"model": 0, "output": 0, "KV": 0, "RS": 0}
        self._compute: dict[str, int] = {}  # reserved anew when it changes, so the last word counts

    def heard(self, line: str) -> None:
        """Take in one line of the log; those that tell no size are passed over."""
        found = BUFFER.search(line)
        if found is None:
            return
        kind, what, number, unit = found.groups()
        size = round(float(number) * UNITS[unit])
        if what == "compute":
            self._compute[kind] = size
        elif what == "model" and kind.endswith(MAPPED_SUFFIX):
            self._mapped += size
        else:
            self._summed[what] += size

    def parts(self, *, logits_bytes: int = 0) -> MemoryParts:
        """The account so far, without what the process has besides these buffers.

        The engine tells the output buffer of one row a sequence; ``logits_bytes`` is what it grows to.
        """
        return MemoryParts(
            mapped_bytes=self._mapped,
            weights_bytes=self._summed["model"],
            kv_bytes=self._summed["KV"],
            state_bytes=self._summed["RS"],
            compute_bytes=max(self._summed["output"], logits_bytes) + sum(self._compute.values()),
        )
