"""The choice: which file of which model, with which settings and limits, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import NotFound, NothingFits
from edgectl.planning.candidate import Candidate, Limits, Miss, distance, evaluate
from edgectl.planning.catalog import Catalog, ModelEntry, ModelFile, Sampling, find_file
from edgectl.planning.memory import (
    PARKED_SEQUENCES,
    KvType,
    MemoryEstimate,
    unit_memory_max_bytes,
    worker_budget_bytes,
)
from edgectl.planning.speed import SpeedEstimate, device_speed, inference_threads
from edgectl.planning.wishes import DEFAULT_MIN_TPS, Wishes, check_wishes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgectl.device import Device
    from edgectl.probe.profiles import DeviceProfile

__all__ = [
    "Candidate", "DeviceSummary", "Miss", "Plan", "PlanResult", "Wishes", "plan",
    "require_choice", "reserve_bytes", "usable_memory_bytes",
]  # fmt: skip

MIB = 1 << 20
# Left to everything else when nobody says: a tenth, enough for an update or a login on a small board,
# and no more than a gigabyte on a large one.
RESERVE_SHARE = 0.10
RESERVE_LEAST_MIB = 128
RESERVE_MOST_MIB = 1024
THINKING_TPS = 20.0  # a thousand tokens of thought in under a minute


class DeviceSummary(Struct, frozen=True, kw_only=True):
    """The facts of the computer that decided."""

    name: str
    profile: str | None
    memory_total_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    threads: int
    speed_source: str


class Plan(Struct, frozen=True, kw_only=True):
    """What to install. ``context_tokens`` is per slot; the two last sizes are limits to set.

    ``worker_budget_bytes`` bounds the worker's anonymous memory when weights stay file pages; where the
    self-test turns weight repacking on, they are anonymous and ``memory.weights_bytes`` comes on top.
    """

    model: str
    name: str
    quant: str
    file: ModelFile
    context_tokens: int
    slots: int
    parked_sequences: int
    ubatch: int
    kv_type: KvType
    threads: int
    mmap: bool
    thinking: bool
    sampling: Sampling
    quality: float
    memory: MemoryEstimate
    speed: SpeedEstimate
    worker_budget_bytes: int
    unit_memory_max_bytes: int
    reason: str


class PlanResult(Struct, frozen=True, kw_only=True):
    """``candidates`` are all files that were weighed, the best first; ``choice`` None: none is acceptable."""

    device: DeviceSummary
    wishes: Wishes
    available_bytes: int
    reserve_bytes: int
    usable_bytes: int
    candidates: tuple[Candidate, ...]
    choice: Plan | None


def plan(
    device: Device,
    profile: DeviceProfile | None,
    catalog: Catalog,
    wishes: Wishes | None = None,
    *,
    stored_sha256: Iterable[str] = (),
) -> PlanResult:
    """Weighs every file of ``catalog`` (or of the model wished for) and chooses the one with the best score.

    Files with a hash in ``stored_sha256`` need no disk space. Raises Usage for wishes without sense and
    NotFound for a model or quantization that the catalogue does not have.
    """
    wishes = check_wishes(wishes or Wishes())
    reserve = reserve_bytes(device, wishes)
    limits = Limits(
        memory_bytes=usable_memory_bytes(device, reserve),
        disk_bytes=device.storage.free_bytes,
        speed=device_speed(device, profile),
        stored_sha256=frozenset(stored_sha256),
    )
    pairs = _wanted(catalog, wishes)
    candidates = tuple(
        sorted((evaluate(entry, file, wishes, limits) for entry, file in pairs), key=_best_first)
    )
    best = next((one for one in candidates if one.fits and (wishes.model or not one.demo)), None)
    return PlanResult(
        device=_summary(device, profile, limits),
        wishes=wishes,
        available_bytes=device.memory.available_bytes,
        reserve_bytes=reserve,
        usable_bytes=limits.memory_bytes,
        candidates=candidates,
        choice=_plan(catalog, best, candidates, device, wishes) if best else None,
    )


def require_choice(result: PlanResult) -> Plan:
    """The choice. Raises NothingFits with the nearest miss and what to change."""
    if result.choice is not None:
        return result.choice
    near = min(
        (one for one in result.candidates if not one.demo or result.wishes.model),
        key=lambda one: (distance(one), -one.quality),
        default=None,
    )
    if near is None:
        raise NothingFits("the catalogue has nothing to choose from", hint="reinstall edged")
    what = " and ".join(miss.hint for miss in near.misses)
    raise NothingFits(
        f"no model fits {result.usable_bytes / MIB:,.0f} MiB with these wishes; "
        f"the nearest, {near.model}:{near.quant}: {_why(near)}",
        hint=what,
    )


def usable_memory_bytes(device: Device, reserved_bytes: int) -> int:
    """What a model may take without swapping: the kernel's estimate less the reserve, or a cgroup's rest.

    The reserve is for the rest of the computer, so a cgroup's own limit is not shortened by it.
    """
    left = max(device.memory.available_bytes - reserved_bytes, 0)
    limit = device.memory.cgroup_available_bytes
    return left if limit is None else min(left, limit)


def reserve_bytes(device: Device, wishes: Wishes) -> int:
    """Memory left to everything else on the computer."""
    if wishes.reserve_mib is not None:
        return wishes.reserve_mib * MIB
    share_mib = int(device.memory.total_bytes * RESERVE_SHARE) // MIB
    return min(max(share_mib, RESERVE_LEAST_MIB), RESERVE_MOST_MIB) * MIB


def _wanted(catalog: Catalog, wishes: Wishes) -> list[tuple[ModelEntry, ModelFile]]:
    """Every file that the wishes for model and quantization leave."""
    if wishes.model is not None:
        name, _, quant = wishes.model.partition(":")
        entry = catalog.model(name)
        quant = quant or wishes.quant or ""
        return [(entry, find_file(entry, quant))] if quant else [(entry, file) for file in entry.files]
    pairs = [(entry, file) for entry in catalog.models for file in entry.files]
    if wishes.quant is None:
        return pairs
    chosen = [(entry, file) for entry, file in pairs if file.quant.lower() == wishes.quant.lower()]
    if not chosen:
        known = ", ".join(dict.fromkeys(file.quant for _, file in pairs))
        raise NotFound(f"no model of the catalogue has a file {wishes.quant!r}", hint=f"known: {known}")
    return chosen


def _best_first(candidate: Candidate) -> tuple[bool, bool, float, float, int]:
    return (
        not candidate.fits,
        candidate.demo,
        -candidate.score,
        -candidate.quality,
        candidate.download_bytes,
    )


def _plan(
    catalog: Catalog, best: Candidate, candidates: tuple[Candidate, ...], device: Device, wishes: Wishes
) -> Plan:
    entry = catalog.model(best.model)
    thinking = _thinking(entry, best.speed, wishes)
    sampling = entry.sampling.thinking if thinking else None
    return Plan(
        model=entry.id,
        name=entry.name,
        quant=best.quant,
        file=find_file(entry, best.quant),
        context_tokens=wishes.context_tokens,
        slots=wishes.slots,
        parked_sequences=PARKED_SEQUENCES,
        ubatch=best.ubatch,
        kv_type=best.kv_type,
        threads=inference_threads(device),
        mmap=True,
        thinking=thinking,
        sampling=sampling or entry.sampling.non_thinking,
        quality=best.quality,
        memory=best.memory,
        speed=best.speed,
        worker_budget_bytes=worker_budget_bytes(best.memory),
        unit_memory_max_bytes=unit_memory_max_bytes(best.memory),
        reason=explain(best, candidates, wishes),
    )


def _thinking(entry: ModelEntry, speed: SpeedEstimate, wishes: Wishes) -> bool:
    if wishes.thinking is not None:
        return wishes.thinking and entry.can_think
    return entry.default_thinking and speed.decode_tps >= THINKING_TPS


def explain(best: Candidate, candidates: tuple[Candidate, ...], wishes: Wishes) -> str:
    """One or two sentences: why this one, and what kept the next better one out."""
    fitting = [one for one in candidates if one.fits and not one.demo]
    if best.demo:
        return f"{best.name} was asked for by name; it is for demonstrations, not for real work."
    if len(fitting) == 1:
        first = "The only file that meets the wishes."
    elif wishes.prefer == "quality":
        first = f"The best answers of the {len(fitting)} files that meet the wishes."
    else:
        weight = "speed before quality" if wishes.prefer == "speed" else "quality against speed"
        first = f"The best of the {len(fitting)} files that meet the wishes, weighing {weight}."
    if wishes.model and best.speed.decode_tps < DEFAULT_MIN_TPS:
        first += f" It is slow here: about {best.speed.decode_tps:.1f} tokens/s."
    better = [
        one for one in candidates if one.quality > best.quality and one.pullable and one.model != best.model
    ]
    if not better:
        return first
    model = min(better, key=lambda one: one.quality).model
    return f"{first} {_why_not(min((one for one in better if one.model == model), key=distance), best)}"


def _why(candidate: Candidate) -> str:
    return " and ".join(miss.message for miss in candidate.misses)


def _why_not(better: Candidate, best: Candidate) -> str:
    label = f"{better.name} {better.quant}"
    if better.misses:
        return f"The next better one, {label}, is out: {_why(better)}."
    return (
        f"{label} would give slightly better answers ({better.quality:.0f} against {best.quality:.0f}) "
        f"at {better.speed.decode_tps:.1f} instead of {best.speed.decode_tps:.1f} tokens/s."
    )


def _summary(device: Device, profile: DeviceProfile | None, limits: Limits) -> DeviceSummary:
    return DeviceSummary(
        name=device.board.model or (profile.name if profile else device.cpu.model),
        profile=profile.id if profile else None,
        memory_total_bytes=device.memory.total_bytes,
        memory_available_bytes=device.memory.available_bytes,
        disk_free_bytes=device.storage.free_bytes,
        threads=inference_threads(device),
        speed_source=limits.speed.source,
    )
