"""Parses /proc/cpuinfo of x86 and ARM kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.host.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CPUINFO_LIMIT = 1 << 21  # about 1.5 KiB a CPU: enough for a thousand
Block = dict[str, str]


def blocks(root: Path) -> list[Block]:
    """One mapping a paragraph, keys in lower case; ARM ends with a paragraph about the board."""
    text = read_text(root / "proc/cpuinfo", limit=CPUINFO_LIMIT) or ""
    found: list[Block] = []
    for paragraph in text.split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines())
        block = {key.strip().lower(): value.strip() for key, _, value in pairs if key.strip()}
        if block:
            found.append(block)
    return found


def processors(found: list[Block]) -> dict[int, Block]:
    """The paragraphs of CPUs by their number."""
    return {int(block["processor"]): block for block in found if block.get("processor", "").isdecimal()}


def value(found: list[Block], key: str) -> str | None:
    """The first value of ``key`` in any paragraph."""
    return next((block[key] for block in found if block.get(key)), None)


def flags(block: Mapping[str, str]) -> frozenset[str]:
    """The kernel's names of instruction sets: "flags" on x86, "Features" on ARM."""
    return frozenset((block.get("flags") or block.get("features") or "").split())
