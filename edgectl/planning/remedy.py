"""What would make a rejected candidate fit: changed wishes, more memory, more disk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from msgspec import structs

from edgectl.planning.candidate import Candidate, Limits, disk_needed_bytes, evaluate
from edgectl.planning.miss import Remedy, wish_changes
from edgectl.planning.settings import rungs
from edgectl.planning.wishes import SMALLEST_CONTEXT_TOKENS, Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgectl.planning.catalog import ModelEntry, ModelFile

__all__ = ["remedies", "with_remedies"]

MIB = 1 << 20
HOPELESS = frozenset({"unpinned", "bits", "thinking"})
SIZES_GIB = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # memory as it is sold
SOLD_SHARE = 0.85  # of the memory that is sold, a model may take about this much


def with_remedies(
    candidate: Candidate, entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits
) -> Candidate:
    return structs.replace(candidate, remedies=remedies(candidate, entry, file, wishes, limits))


def remedies(
    candidate: Candidate, entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits
) -> tuple[Remedy, ...]:
    """Ways to make ``candidate`` fit, the mildest first; () when it does, or when nothing would help."""
    kinds = {miss.kind for miss in candidate.misses}
    if not kinds or kinds & HOPELESS:
        return ()
    changes = _without_memory(candidate, entry, file, wishes, limits)
    eased = structs.replace(wishes, **wish_changes(changes))
    again = evaluate(entry, file, eased, limits, candidate.speed)
    if again.needed_bytes <= limits.memory_bytes:
        return (_remedy(changes, limits),)
    needed_bytes = again.needed_bytes
    ways = [changes | smaller for smaller in _smaller(candidate, entry, file, eased, limits)][:1]
    lower_mib = (limits.available_bytes - needed_bytes) // MIB
    if (
        wishes.reserve_mib is not None
        and lower_mib >= 0
        and (limits.group_bytes or needed_bytes) >= needed_bytes
    ):
        ways.append(changes | {"reserve_mib": lower_mib})
    ways.append(changes | _more_memory(needed_bytes, limits))
    return tuple(_remedy(way, limits, needed_bytes) for way in ways)


def _more_memory(needed_bytes: int, limits: Limits) -> dict[str, Any]:
    short = {"more_memory_bytes": _mib_up(needed_bytes - limits.left_bytes)}
    if limits.group_bytes is not None:
        short["more_group_bytes"] = _mib_up(needed_bytes - limits.group_bytes)
    return {name: size_bytes for name, size_bytes in short.items() if size_bytes > 0}


def _without_memory(
    candidate: Candidate, entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits
) -> dict[str, Any]:
    """The changes that meet every miss but that of memory."""
    kinds = {miss.kind for miss in candidate.misses}
    changes: dict[str, Any] = {}
    if "vision" in kinds:
        changes["vision"] = False
    if "context" in kinds:
        changes["context_tokens"] = entry.context_max_tokens
    if "speed" in kinds:
        changes["min_tps"] = math.floor(candidate.speed.decode_tps * 10) / 10
    if "first_token" in kinds:
        changes["max_ttft_s"] = float(math.ceil(candidate.speed.ttft_500_s))
    eased = structs.replace(wishes, **wish_changes(changes))
    short_bytes = disk_needed_bytes(entry, file, eased, limits) - (limits.disk_bytes or 0)
    if "disk" in kinds and short_bytes > 0:
        changes["more_disk_bytes"] = _mib_up(short_bytes)
    return changes


def _smaller(
    candidate: Candidate, entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits
) -> Iterator[dict[str, Any]]:
    """Smaller wishes that fit the memory, the mildest first: fewer slots, less context, no images."""
    # Where the planner's own choice ended.
    last_context, last_slots = rungs(wishes, entry.context_max_tokens)[-1]
    for vision in sorted({wishes.vision, False}, reverse=True):
        for count in sorted({last_slots, 1}, reverse=True):
            for context in _halved(last_context):
                trial = structs.replace(wishes, context_tokens=context, slots=count, vision=vision)
                found = evaluate(entry, file, trial, limits, candidate.speed)
                if found.needed_bytes <= limits.memory_bytes:
                    yield {
                        name: value
                        for name, value in (("context_tokens", context), ("slots", count), ("vision", vision))
                        if getattr(wishes, name) != value
                    }


def _halved(context_tokens: int) -> Iterator[int]:
    """``context_tokens`` and every power of two below it, down to the smallest that makes sense."""
    while context_tokens >= SMALLEST_CONTEXT_TOKENS:
        yield context_tokens
        context_tokens = 1 << ((context_tokens - 1).bit_length() - 1)


def _remedy(changes: dict[str, Any], limits: Limits, needed_bytes: int = 0) -> Remedy:
    return Remedy(text=_text(changes, limits, needed_bytes), **changes)


def _text(changes: dict[str, Any], limits: Limits, needed_bytes: int) -> str:
    """`ask for --context 2048 --concurrency 1 and free 300 MiB of disk`."""
    options = {
        "context_tokens": "--context {}", "slots": "--concurrency {}", "min_tps": "--min-tps {:g}",
        "max_ttft_s": "--max-ttft {:g}", "reserve_mib": "--reserve {}",
    }  # fmt: skip
    asked = [text.format(changes[name]) for name, text in options.items() if name in changes]
    parts = ["ask for " + " ".join(asked)] if asked else []
    if "vision" in changes:
        parts.append("leave out --vision")
    if "more_disk_bytes" in changes:
        parts.append(f"free {changes['more_disk_bytes'] // MIB:,} MiB of disk")
    if "more_group_bytes" in changes:
        mib = f"{changes['more_group_bytes'] // MIB:,} MiB"
        parts.append(f"raise the memory limit of this control group by {mib}")
    if "more_memory_bytes" in changes:
        parts.append(_memory_text(changes["more_memory_bytes"], limits, needed_bytes))
    return " and ".join(parts)


def _memory_text(short_bytes: int, limits: Limits, needed_bytes: int) -> str:
    mib = f"{short_bytes // MIB:,} MiB"
    if short_bytes <= limits.used_bytes:
        return f"free {mib} of memory"
    least = max(needed_bytes, limits.available_bytes + limits.used_bytes)  # a larger one than this
    gib = next((size for size in SIZES_GIB if size * SOLD_SHARE * 1024 * MIB >= least), None)
    return f"take a computer with {gib} GB of memory ({mib} more)" if gib else f"find {mib} more memory"


def _mib_up(size_bytes: int) -> int:
    return -(-size_bytes // MIB) * MIB
