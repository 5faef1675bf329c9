"""One file of one model on one computer: does it fit, how well, and what keeps it out."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.planning.miss import Miss, Remedy
from edgectl.planning.settings import Settings, choose_settings
from edgectl.planning.speed import DeviceSpeed, SpeedEstimate, estimate_speed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgectl.planning.catalog import ModelEntry, ModelFile
    from edgectl.planning.wishes import Wishes

__all__ = ["Candidate", "Limits", "disk_needed_bytes", "distance", "evaluate", "score"]

MIB = 1 << 20
DISK_SPARE_BYTES = 256 * MIB  # what a system needs to stay usable
# Models of these sizes lose their wits at two bits a weight, whatever the divergence says.
TWO_BITS = re.compile(r"(^|-)(I?Q[12]|TQ[12])_")

# What a halving of the speed below a comfortable one costs, in points of quality, and that speed.
_SPEED_COST: dict[str, tuple[float, float]] = {
    "quality": (0.0, 1.0),
    "balanced": (4.0, 10.0),
    "speed": (9.0, 30.0),
}
# What each step below the usual context and slots costs, in points of quality: about as much as a step
# from Q5_K_M to Q4_K_M, so that no one waits for a slot, or runs out of context, for a trifle.
RUNG_COST = 2.0


class Limits(Struct, frozen=True, kw_only=True):
    """What the computer offers; ``disk_bytes`` None: no file needs to be written.

    ``left_bytes`` is the available memory less the reserve, below 0 where the reserve is larger;
    ``group_bytes`` what a control group leaves; ``used_bytes`` the memory that is not available now.
    """

    available_bytes: int
    left_bytes: int
    disk_bytes: int | None
    speed: DeviceSpeed
    group_bytes: int | None = None
    used_bytes: int = 0
    stored_sha256: frozenset[str] = frozenset()
    mmap: bool = True

    @property
    def memory_bytes(self) -> int:
        """What a model may take. The reserve is for the rest of the computer, not for the group's."""
        left_bytes = max(self.left_bytes, 0)
        return left_bytes if self.group_bytes is None else min(left_bytes, self.group_bytes)


class Candidate(Struct, frozen=True, kw_only=True):
    """One file here.

    ``quality`` is the model's index less the loss of the quantization, 0 to 100; ``needed_bytes`` the limit
    on the whole service, without room for repacked weights.
    ``remedies`` are alternatives: following any one of them makes this candidate fit.
    """

    model: str
    name: str
    quant: str
    download_bytes: int
    stored: bool
    pullable: bool
    demo: bool
    quality: float
    score: float
    settings: Settings
    needed_bytes: int
    speed: SpeedEstimate
    fits: bool
    misses: tuple[Miss, ...] = ()
    remedies: tuple[Remedy, ...] = ()


def distance(candidate: Candidate) -> float:
    """How far a candidate is from being acceptable, as needed over available; 0 for one that is."""
    return max((miss.ratio for miss in candidate.misses), default=0.0)


def evaluate(
    entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits, speed: SpeedEstimate | None = None
) -> Candidate:
    """``file`` with the engine settings that suit it best here; without remedies.

    ``speed`` is what :func:`estimate_speed` said of it before, if it did.
    """
    speed = speed or estimate_speed(entry, file, limits.speed)
    settings = choose_settings(
        entry,
        file,
        wishes,
        memory_bytes=limits.memory_bytes,
        prefill_tps=speed.prefill_tps,
        mmap=limits.mmap,
    )
    misses = tuple(_misses(entry, file, wishes, limits, settings=settings, speed=speed))
    quality = entry.quality.index * (1 - file.kld)
    return Candidate(
        model=entry.id,
        name=entry.name,
        quant=file.quant,
        download_bytes=_download_bytes(entry, file, wishes),
        stored=_stored(file, limits),
        pullable=file.pullable,
        demo=entry.demo,
        quality=quality,
        score=score(quality, speed.decode_tps, wishes.prefer) - RUNG_COST * settings.rung,
        settings=settings,
        needed_bytes=settings.needed_bytes,
        speed=speed,
        fits=not misses,
        misses=misses,
    )


def score(quality: float, decode_tps: float, prefer: str) -> float:
    """Quality less the price of being slow: so many points for each halving below a comfortable speed."""
    points, comfortable_tps = _SPEED_COST[prefer]
    return quality - points * max(math.log2(comfortable_tps / decode_tps), 0.0)


def disk_needed_bytes(entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits) -> int:
    """Free disk that fetching what is missing asks for; 0 when nothing is."""
    missing = 0 if _stored(file, limits) else file.bytes
    if wishes.vision and entry.vision is not None and entry.vision.sha256 not in limits.stored_sha256:
        missing += entry.vision.bytes
    return missing + DISK_SPARE_BYTES if missing else 0


def _stored(file: ModelFile, limits: Limits) -> bool:
    return file.package is not None or file.sha256 in limits.stored_sha256


def _download_bytes(entry: ModelEntry, file: ModelFile, wishes: Wishes) -> int:
    return file.bytes + (entry.vision.bytes if wishes.vision and entry.vision is not None else 0)


def _misses(
    entry: ModelEntry,
    file: ModelFile,
    wishes: Wishes,
    limits: Limits,
    *,
    settings: Settings,
    speed: SpeedEstimate,
) -> Iterator[Miss]:
    """Every reason against it, those that nothing changes first."""
    if not file.pullable:
        yield Miss(kind="unpinned", message="no pinned hash", ratio=math.inf)
    if TWO_BITS.search(file.quant):
        yield Miss(kind="bits", message="two bits a weight are too few", ratio=math.inf)
    if wishes.thinking and not entry.can_think:
        yield Miss(kind="thinking", message="cannot think", ratio=math.inf)
    if wishes.vision and (entry.vision is None or entry.vision.sha256 is None):
        yield Miss(kind="vision", message="no known image projector", ratio=math.inf)
    if settings.context_tokens > entry.context_max_tokens:
        yield Miss(
            kind="context",
            message=f"context ends at {entry.context_max_tokens:,}",
            ratio=settings.context_tokens / entry.context_max_tokens,
        )
    if settings.needed_bytes > limits.memory_bytes:
        yield Miss(
            kind="memory",
            message=f"{_mib_up(settings.needed_bytes - limits.memory_bytes):,} MiB too large",
            ratio=settings.needed_bytes / max(limits.memory_bytes, 1),
        )
    yield from _disk(disk_needed_bytes(entry, file, wishes, limits), limits.disk_bytes)
    yield from _slow(speed, wishes)


def _disk(needed_bytes: int, free_bytes: int | None) -> Iterator[Miss]:
    if free_bytes is not None and needed_bytes > free_bytes:
        yield Miss(
            kind="disk",
            message=f"{_mib_up(needed_bytes - free_bytes):,} MiB short of disk",
            ratio=needed_bytes / max(free_bytes, 1),
        )


def _slow(speed: SpeedEstimate, wishes: Wishes) -> Iterator[Miss]:
    if speed.decode_tps < wishes.tps_floor:
        yield Miss(
            kind="speed",
            message=f"{math.floor(speed.decode_tps * 10) / 10:g} tokens/s, below {wishes.tps_floor:g}",
            ratio=wishes.tps_floor / speed.decode_tps,
        )
    if speed.ttft_500_s > wishes.ttft_ceiling_s:
        yield Miss(
            kind="first_token",
            message=f"first token after {math.ceil(speed.ttft_500_s)} s",
            ratio=speed.ttft_500_s / wishes.ttft_ceiling_s,
        )


def _mib_up(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
