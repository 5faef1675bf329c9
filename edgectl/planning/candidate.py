"""One file of one model on one computer: does it fit, how well, and what keeps it out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from edgectl.planning.memory import KvType, MemoryEstimate, estimate_memory, unit_memory_max_bytes
from edgectl.planning.speed import DeviceSpeed, SpeedEstimate, estimate_speed
from edgectl.planning.wishes import SMALLEST_CONTEXT_TOKENS, Wishes

if TYPE_CHECKING:
    from edgectl.planning.catalog import ModelEntry, ModelFile

__all__ = ["Candidate", "Limits", "Miss", "MissKind", "distance", "evaluate", "score"]

MIB = 1 << 20
MissKind = Literal["unpinned", "context", "memory", "disk", "speed", "first_token"]
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")  # q4_0 loses too much to be chosen unasked
UBATCHES = (256, 128, 64, 32)
CANCEL_LATENCY_S = 4.0  # a cancelled prompt is noticed between compute steps
DISK_SPARE_BYTES = 256 * MIB  # what a system needs to stay usable

# What a halving of the speed below a comfortable one costs, in points of quality, and that speed.
_SPEED_COST: dict[str, tuple[float, float]] = {
    "quality": (0.0, 1.0),
    "balanced": (4.0, 10.0),
    "speed": (9.0, 30.0),
}


class Limits(Struct, frozen=True, kw_only=True):
    """What the computer offers: memory less the reserve, free disk (None: no file needs to be written)."""

    memory_bytes: int
    disk_bytes: int | None
    speed: DeviceSpeed
    stored_sha256: frozenset[str] = frozenset()


class Miss(Struct, frozen=True, kw_only=True):
    """One reason against a candidate. ``ratio`` is needed over available: 1.2 misses by a fifth."""

    kind: MissKind
    message: str
    hint: str
    ratio: float


class Candidate(Struct, frozen=True, kw_only=True):
    """``quality`` is the model's index less the loss of the quantization, 0 to 100."""

    model: str
    name: str
    quant: str
    download_bytes: int
    pullable: bool
    demo: bool
    quality: float
    score: float
    memory: MemoryEstimate
    needed_bytes: int
    speed: SpeedEstimate
    kv_type: KvType
    ubatch: int
    fits: bool
    misses: tuple[Miss, ...] = ()


def distance(candidate: Candidate) -> float:
    """How far a candidate is from being acceptable, as needed over available; 0 for one that is."""
    return max((miss.ratio for miss in candidate.misses), default=0.0)


def evaluate(entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits) -> Candidate:
    """``file`` with the engine settings that suit it best here."""
    speed = estimate_speed(entry, file, limits.speed)
    kv_type, ubatch = _settings(entry, file, wishes, limits.memory_bytes, speed)
    memory = _memory(entry, file, wishes, kv_type, ubatch)
    misses = _misses(entry, file, wishes, limits, memory=memory, speed=speed)
    quality = entry.quality.index * (1 - file.kld)
    return Candidate(
        model=entry.id,
        name=entry.name,
        quant=file.quant,
        download_bytes=file.bytes,
        pullable=file.pullable,
        demo=entry.demo,
        quality=quality,
        score=score(quality, speed.decode_tps, wishes.prefer),
        memory=memory,
        needed_bytes=unit_memory_max_bytes(memory),
        speed=speed,
        kv_type=kv_type,
        ubatch=ubatch,
        fits=not misses,
        misses=misses,
    )


def score(quality: float, decode_tps: float, prefer: str) -> float:
    """Quality less the price of being slow: so many points for each halving below a comfortable speed."""
    points, comfortable_tps = _SPEED_COST[prefer]
    return quality - points * max(math.log2(comfortable_tps / decode_tps), 0.0)


def _memory(
    entry: ModelEntry,
    file: ModelFile,
    wishes: Wishes,
    kv_type: KvType,
    ubatch: int,
    *,
    context: int | None = None,
) -> MemoryEstimate:
    return estimate_memory(
        entry.geometry,
        file.bytes,
        context_tokens=wishes.context_tokens if context is None else context,
        slots=wishes.slots,
        ubatch_tokens=ubatch,
        kv_type=kv_type,
    )


def _settings(
    entry: ModelEntry, file: ModelFile, wishes: Wishes, memory_bytes: int, speed: SpeedEstimate
) -> tuple[KvType, int]:
    """KV type and step size: exact cache before large steps, small ones of both when memory is short."""
    quick = [ubatch for ubatch in UBATCHES if ubatch <= CANCEL_LATENCY_S * speed.prefill_tps] or [
        UBATCHES[-1]
    ]
    for kv_type in KV_TYPES:
        for ubatch in quick:
            if unit_memory_max_bytes(_memory(entry, file, wishes, kv_type, ubatch)) <= memory_bytes:
                return kv_type, ubatch
    return KV_TYPES[-1], UBATCHES[-1]


def _misses(
    entry: ModelEntry,
    file: ModelFile,
    wishes: Wishes,
    limits: Limits,
    *,
    memory: MemoryEstimate,
    speed: SpeedEstimate,
) -> tuple[Miss, ...]:
    found = (
        _unpinned(file),
        _context(entry, wishes),
        _too_large(entry, file, wishes, limits, needed_bytes=unit_memory_max_bytes(memory)),
        _no_disk(file, limits),
        _too_slow(speed, wishes),
        _late(speed, wishes),
    )
    return tuple(miss for miss in found if miss is not None)


def _unpinned(file: ModelFile) -> Miss | None:
    if file.pullable:
        return None
    return Miss(
        kind="unpinned",
        message="no pinned hash",
        hint="choose another file of this model: this one cannot be verified yet",
        ratio=math.inf,
    )


def _context(entry: ModelEntry, wishes: Wishes) -> Miss | None:
    if wishes.context_tokens <= entry.context_max_tokens:
        return None
    return Miss(
        kind="context",
        message=f"context ends at {entry.context_max_tokens:,}",
        hint=f"ask for --context {entry.context_max_tokens}",
        ratio=wishes.context_tokens / entry.context_max_tokens,
    )


def _too_large(
    entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits, *, needed_bytes: int
) -> Miss | None:
    if needed_bytes <= limits.memory_bytes:
        return None
    short_mib = -(-(needed_bytes - limits.memory_bytes) // MIB)
    return Miss(
        kind="memory",
        message=f"{short_mib:,} MiB too large",
        hint=_memory_hint(entry, file, wishes, limits.memory_bytes) or f"free {short_mib:,} MiB of memory",
        ratio=needed_bytes / max(limits.memory_bytes, 1),
    )


def _memory_hint(entry: ModelEntry, file: ModelFile, wishes: Wishes, memory_bytes: int) -> str:
    """A smaller wish that would fit, the mildest first; empty when none would."""
    for slots in sorted({wishes.slots, 1}, reverse=True):
        fewer = Wishes(context_tokens=wishes.context_tokens, slots=slots)
        context = _largest_context(entry, file, fewer, memory_bytes)
        if context:
            parts = [f"--context {context}"] * (context < wishes.context_tokens)
            parts += [f"--concurrency {slots}"] * (slots < wishes.slots)
            return "ask for " + " ".join(parts)
    return ""


def _largest_context(entry: ModelEntry, file: ModelFile, wishes: Wishes, memory_bytes: int) -> int:
    """Tokens of context for each slot that would fit, a power of two at or below the wish; 0 for none."""
    context = wishes.context_tokens
    while context >= SMALLEST_CONTEXT_TOKENS:
        memory = _memory(entry, file, wishes, KV_TYPES[-1], UBATCHES[-1], context=context)
        if unit_memory_max_bytes(memory) <= memory_bytes:
            return context
        context = 1 << ((context - 1).bit_length() - 1)
    return 0


def _no_disk(file: ModelFile, limits: Limits) -> Miss | None:
    if limits.disk_bytes is None or file.package is not None or file.sha256 in limits.stored_sha256:
        return None
    needed = file.bytes + DISK_SPARE_BYTES
    if needed <= limits.disk_bytes:
        return None
    short_mib = -(-(needed - limits.disk_bytes) // MIB)
    return Miss(
        kind="disk",
        message=f"{short_mib:,} MiB short of disk",
        hint=f"free {short_mib:,} MiB of disk",
        ratio=needed / max(limits.disk_bytes, 1),
    )


def _too_slow(speed: SpeedEstimate, wishes: Wishes) -> Miss | None:
    if speed.decode_tps >= wishes.tps_floor:
        return None
    reachable = math.floor(speed.decode_tps * 10) / 10
    return Miss(
        kind="speed",
        message=f"{reachable:g} tokens/s, below {wishes.tps_floor:g}",
        hint=f"ask for --min-tps {reachable:g}",
        ratio=wishes.tps_floor / speed.decode_tps,
    )


def _late(speed: SpeedEstimate, wishes: Wishes) -> Miss | None:
    if speed.ttft_500_s <= wishes.ttft_ceiling_s:
        return None
    return Miss(
        kind="first_token",
        message=f"first token after {math.ceil(speed.ttft_500_s)} s",
        hint=f"ask for --max-ttft {math.ceil(speed.ttft_500_s)}",
        ratio=speed.ttft_500_s / wishes.ttft_ceiling_s,
    )
