"""The choice: which file of which model, with which settings and limits, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import NotFound, NothingFits
from edgectl.planning.candidate import Candidate, Limits, distance, evaluate
from edgectl.planning.catalog import Catalog, ModelEntry, ModelFile, Sampling, Vision, find_file
from edgectl.planning.memory import PARKED_SEQUENCES, KvType, MemoryEstimate
from edgectl.planning.miss import Miss, Remedy
from edgectl.planning.remedy import with_remedies
from edgectl.planning.reserve import ReservePart, reserve_parts
from edgectl.planning.settings import Repack
from edgectl.planning.speed import DeviceSpeed, SpeedEstimate, device_speed, inference_threads
from edgectl.planning.wishes import DEFAULT_MIN_TPS, Wishes, check_wishes

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

    ``worker_budget_bytes`` bounds the worker's anonymous memory. With ``repack`` "auto" it and the unit's
    limit hold ``repack_bytes`` for a second, faster copy of the weights, if the self-test wants one.
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
    repack: Repack
    repack_bytes: int
    vision: Vision | None
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
        choice=_plan(catalog, best, candidates, wishes, threads=plan_threads(device, limits.speed))
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
        f"the nearest, {near.model}:{near.quant}: {_why(near)}",
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
    catalog: Catalog, best: Candidate, candidates: tuple[Candidate, ...], wishes: Wishes, *, threads: int
) -> Plan:
    entry, settings = catalog.model(best.model), best.settings
    thinking = _thinking(entry, best.speed, wishes)
    sampling = entry.sampling.thinking if thinking else None
    return Plan(
        model=entry.id,
        name=entry.name,
        quant=best.quant,
        file=find_file(entry, best.quant),
        context_tokens=settings.context_tokens,
        slots=settings.slots,
        parked_sequences=PARKED_SEQUENCES,
        ubatch=settings.ubatch,
        kv_type=settings.kv_type,
        threads=threads,
        mmap=settings.mmap,
        repack=settings.repack,
        repack_bytes=settings.repack_bytes,
        vision=entry.vision if wishes.vision else None,
        thinking=thinking,
        sampling=sampling or entry.sampling.non_thinking,
        quality=best.quality,
        memory=settings.memory,
        speed=best.speed,
        worker_budget_bytes=settings.worker_bytes + settings.repack_bytes,
        unit_memory_max_bytes=settings.needed_bytes + settings.repack_bytes,
        reason=explain(best, candidates, wishes),
    )


def plan_threads(device: Device, speed: DeviceSpeed) -> int:
    """The threads that were fastest when tried here, else the cores of the fast cluster."""
    return speed.calibration.threads if speed.calibration else inference_threads(device)


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
    if best.settings.rung:
        requests = "one request" if best.settings.slots == 1 else f"{best.settings.slots} requests"
        first += (
            f" To fit, it serves {requests} at once, with {best.settings.context_tokens:,} tokens of context."
        )
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
        threads=plan_threads(device, limits.speed),
        speed_source=limits.speed.source,
    )
