"""The choice: which file of which model, with which settings and limits, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import NotFound, NothingFits
from edgectl.planning.cache import with_conversations, with_system_prompt
from edgectl.planning.candidate import Candidate, Limits, distance, evaluate
from edgectl.planning.catalog import Catalog, ModelEntry, ModelFile, SamplingSet, Vision, find_file
from edgectl.planning.memory import KvType, MemoryEstimate
from edgectl.planning.miss import Miss, Remedy
from edgectl.planning.reason import reason, why_not
from edgectl.planning.remedy import with_remedies
from edgectl.planning.reserve import ReservePart, reserve_parts
from edgectl.planning.settings import Repack, with_repacking
from edgectl.planning.speed import DeviceSpeed, SpeedEstimate, device_speed, inference_threads
from edgectl.planning.wishes import Wishes, check_wishes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgectl.device import Device
    from edgectl.probe.profiles import DeviceProfile

__all__ = [
    "Candidate", "DeviceSummary", "Miss", "Plan", "PlanResult", "Remedy", "Wishes", "best_candidate",
    "device_limits", "nearest_miss", "plan", "require_choice", "wanted",
]  # fmt: skip

MIB = 1 << 20
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

    ``worker_budget_bytes`` bounds the worker's anonymous memory. With ``repack`` "auto" it, the unit's limit
    and ``memory`` hold a second, faster copy of the weights, if the self-test wants one. ``cache_mib`` of it
    are for what prompts have in common.
    """

    model: str
    name: str
    quant: str
    file: ModelFile
    context_tokens: int
    slots: int
    cache_mib: int
    ubatch: int
    kv_type: KvType
    threads: int
    mmap: bool
    repack: Repack
    vision: Vision | None
    thinking: bool
    sampling: SamplingSet
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
    reserve: tuple[ReservePart, ...]
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
    speed: DeviceSpeed | None = None,
) -> PlanResult:
    """Weighs every file of ``catalog`` (or of the model wished for) and chooses the one with the best score.

    Files with a hash in ``stored_sha256`` need no disk space. ``speed`` is what was measured here; without
    it the figures of the profile count. Raises Usage for wishes without sense and
    NotFound for a model or quantization that the catalogue does not have.
    """
    wishes = check_wishes(wishes or Wishes())
    limits = device_limits(device, profile, wishes, stored_sha256=stored_sha256, speed=speed)
    candidates = tuple(
        sorted(
            (_weighed(entry, file, wishes, limits) for entry, file in wanted(catalog, wishes)),
            key=_best_first,
        )
    )
    best = next((one for one in candidates if one.fits and (wishes.model or not one.demo)), None)
    parts = reserve_parts(device, wishes)
    return PlanResult(
        device=_summary(device, profile, limits),
        wishes=wishes,
        available_bytes=device.memory.available_bytes,
        reserve_bytes=sum(part.bytes for part in parts),
        reserve=parts,
        usable_bytes=limits.memory_bytes,
        candidates=candidates,
        choice=_plan(catalog, best, candidates, device=device, wishes=wishes, limits=limits)
        if best
        else None,
    )


def device_limits(
    device: Device,
    profile: DeviceProfile | None,
    wishes: Wishes,
    *,
    stored_sha256: Iterable[str] = (),
    speed: DeviceSpeed | None = None,
) -> Limits:
    """What ``device`` has for a model, less what is kept free for everything else."""
    memory = device.memory
    reserve = sum(part.bytes for part in reserve_parts(device, wishes))
    return Limits(
        available_bytes=memory.available_bytes,
        left_bytes=memory.available_bytes - reserve,
        group_bytes=memory.cgroup_available_bytes,
        used_bytes=max(memory.total_bytes - memory.available_bytes, 0),
        disk_bytes=device.storage.free_bytes,
        speed=speed or device_speed(device, profile),
        stored_sha256=frozenset(stored_sha256),
        # A page that is dropped and read again over a network that is gone kills the worker.
        mmap=device.storage.kind != "network",
    )


def _weighed(entry: ModelEntry, file: ModelFile, wishes: Wishes, limits: Limits) -> Candidate:
    return with_remedies(evaluate(entry, file, wishes, limits), entry, file, wishes, limits)


def require_choice(result: PlanResult) -> Plan:
    """The choice. Raises NothingFits with the nearest miss and what to change."""
    if result.choice is not None:
        return result.choice
    near = best_candidate(result)
    ways = "; or ".join(remedy.text for remedy in near.remedies)
    raise NothingFits(
        f"no model fits {result.usable_bytes / MIB:,.0f} MiB with these wishes; "
        f"the nearest, {near.model}:{near.quant}: {why_not(near)}",
        hint=ways or "choose another file: `edgectl plan --all` shows every one",
    )


def best_candidate(result: PlanResult) -> Candidate:
    """The chosen candidate, else the nearest miss. Raises NothingFits for an empty catalogue."""
    choice = result.choice
    for one in result.candidates:
        if choice is not None and (one.model, one.quant) == (choice.model, choice.quant):
            return one
    near = nearest_miss(result)
    if near is None:
        raise NothingFits("the catalogue has nothing to choose from", hint="reinstall edged")
    return near


def nearest_miss(result: PlanResult) -> Candidate | None:
    """The candidate that misses by the least, the better one of equals; None when there is none at all."""
    return min(
        (one for one in result.candidates if not one.demo or result.wishes.model),
        key=lambda one: (distance(one), -one.quality),
        default=None,
    )


def wanted(catalog: Catalog, wishes: Wishes) -> list[tuple[ModelEntry, ModelFile]]:
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
    catalog: Catalog,
    best: Candidate,
    candidates: tuple[Candidate, ...],
    *,
    device: Device,
    wishes: Wishes,
    limits: Limits,
) -> Plan:
    entry = catalog.model(best.model)
    file = find_file(entry, best.quant)
    calibration, memory_bytes = limits.speed.calibration, limits.memory_bytes
    settings = with_system_prompt(best.settings, entry.geometry, memory_bytes=memory_bytes)
    if calibration is None or calibration.repack:  # else the engine died of it when it was tried
        settings = with_repacking(
            settings, entry, file, memory_bytes=memory_bytes, cpu_features=device.cpu.features
        )
    settings = with_conversations(settings, entry.geometry, memory_bytes=memory_bytes)
    return Plan(
        model=entry.id,
        name=entry.name,
        quant=best.quant,
        file=file,
        context_tokens=settings.context_tokens,
        slots=settings.slots,
        cache_mib=settings.memory.cache_bytes // MIB,
        ubatch=settings.ubatch,
        kv_type=settings.kv_type,
        threads=plan_threads(device, limits.speed),
        mmap=settings.mmap,
        repack=settings.repack,
        vision=entry.vision if wishes.vision else None,
        thinking=_thinking(entry, best.speed, wishes),
        sampling=entry.sampling,
        quality=best.quality,
        memory=settings.memory,
        speed=best.speed,
        worker_budget_bytes=settings.worker_bytes,
        unit_memory_max_bytes=settings.limit_bytes,
        reason=reason(best, candidates, wishes),
    )


def plan_threads(device: Device, speed: DeviceSpeed) -> int:
    """The threads that were fastest when tried here, else the cores of the fast cluster."""
    return speed.calibration.threads if speed.calibration else inference_threads(device)


def _thinking(entry: ModelEntry, speed: SpeedEstimate, wishes: Wishes) -> bool:
    if wishes.thinking is not None:
        return wishes.thinking and entry.can_think
    return entry.default_thinking and speed.decode_tps >= THINKING_TPS


def _summary(device: Device, profile: DeviceProfile | None, limits: Limits) -> DeviceSummary:
    return DeviceSummary(
        name=device.board.model or (profile.name if profile else device.cpu.model),
        profile=profile.id if profile else None,
        memory_total_bytes=device.memory.total_bytes,
        memory_available_bytes=device.memory.available_bytes,
        disk_free_bytes=device.storage.free_bytes,
        threads=plan_threads(device, limits.speed),
        speed_source=limits.speed.source,
    )
