"""Where every byte and every millisecond of one candidate goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import DataInvalid
from edgectl.models.tensor_plan import follows_rules, tensor_plan
from edgectl.planning.speed import REFERENCE_PROMPT_TOKENS, SpeedKind
from edgectl.planning.step_costs import step_parts_s
from edgectl.planning.work import work_of_file

if TYPE_CHECKING:
    from edgectl.planning.candidate import Candidate
    from edgectl.planning.catalog import ModelEntry, ModelFile
    from edgectl.planning.speed import DeviceSpeed

__all__ = ["Explanation", "Term", "explain_candidate"]

MIB = 1 << 20
# Parts of tensor names, as llama.cpp gives them → what a person calls them. The first that matches counts.
_GROUPS = (
    (".token_embd", "embedding"), (".output.weight", "output head"), ("_exps", "experts"),
    ("ffn_", "feed-forward"), ("ssm_", "DeltaNet"), ("attn_qkv", "DeltaNet"), ("attn_gate", "DeltaNet"),
    ("attn_", "attention"),
)  # fmt: skip
_LABELS = {
    "kv": "KV cache", "state": "recurrent state", "compute": "compute buffers", "base": "process",
    "library": "engine libraries", "supervisor": "daemon", "projector": "image projector",
}  # fmt: skip


class Term(Struct, frozen=True, kw_only=True):
    """One part of a sum, in the unit of the sum it is in, and how it comes about."""

    name: str
    amount: float
    note: str = ""


class Explanation(Struct, frozen=True, kw_only=True):
    """``memory`` adds up to ``memory_bytes``, ``decode`` and ``first_token`` to their milliseconds."""

    model: str
    quant: str
    memory_bytes: int
    memory: tuple[Term, ...]
    decode_ms: float
    decode: tuple[Term, ...]
    first_token_ms: float
    first_token: tuple[Term, ...]
    speed_kind: SpeedKind
    speed_source: str


def explain_candidate(
    candidate: Candidate, entry: ModelEntry, file: ModelFile, speed: DeviceSpeed
) -> Explanation:
    """The terms behind the figures of ``candidate``, ``file`` of ``entry`` on a computer of ``speed``."""
    memory = _memory(candidate, entry, file)
    decode_ms, first_ms = 1000 / candidate.speed.decode_tps, 1000 * candidate.speed.ttft_500_s
    calibration, read = speed.calibration, REFERENCE_PROMPT_TOKENS
    step = calibration.ubatch_tokens if calibration else candidate.settings.ubatch
    reading = f"{read} tokens in steps of {step}, {candidate.speed.prefill_tps:.1f} tokens/s"
    writing = Term(name="writing the first", amount=decode_ms, note="one decode step")
    if calibration is None:
        decode = _estimated(decode_ms, entry, file, speed)
        prompt: tuple[Term, ...] = (
            Term(name="reading the prompt", amount=first_ms - decode_ms, note=reading),
        )
    else:
        work = work_of_file(entry, file)
        decode = _measured(step_parts_s(calibration.steps[0], work, depth_tokens=read, head=True))
        parts = step_parts_s(calibration.steps[-1], work, depth_tokens=read / 2, head=False)
        prompt = tuple(
            Term(name=f"reading: {term.name}", amount=term.amount * read / step) for term in _measured(parts)
        )
    return Explanation(
        model=entry.id,
        quant=file.quant,
        memory_bytes=int(sum(term.amount for term in memory)),
        memory=memory,
        decode_ms=decode_ms,
        decode=decode,
        first_token_ms=first_ms,
        first_token=(*prompt, writing),
        speed_kind=candidate.speed.kind,
        speed_source=candidate.speed.source,
    )


def _memory(candidate: Candidate, entry: ModelEntry, file: ModelFile) -> tuple[Term, ...]:
    """Weights by group, the other terms of the memory model, and what the limits leave spare."""
    settings, memory = candidate.settings, candidate.settings.memory
    where = "mapped" if settings.mmap else "read into memory"
    groups = _weight_groups(entry, file)
    terms = [
        Term(name=f"weights: {name}", amount=size, note=f"{kinds}, {where}")
        for name, (size, kinds) in groups.items()
    ]
    rest = memory.weights_bytes + memory.loaded_bytes - sum(term.amount for term in terms)
    if rest > 0:
        terms.append(Term(name="weights: the rest", amount=rest, note=f"norms and the like, {where}"))
    notes = {
        "kv": f"{settings.slots} x {settings.context_tokens:,} tokens, {settings.kv_type}",
        "state": "of each sequence",
        "compute": f"steps of {settings.ubatch} tokens",
        "base": "Python, edged and the engine, before a model",
        "library": "mapped",
        "supervisor": "MQTT, HTTP, queue",
    }
    for field in memory.__struct_fields__:
        name = field.removesuffix("_bytes")
        amount = getattr(memory, field)
        told = name in {"weights", "loaded"}
        if field.endswith("_bytes") and not told and isinstance(amount, int) and amount > 0:
            label = _LABELS.get(name, name.replace("_", " "))
            terms.append(Term(name=label, amount=amount, note=notes.get(name, "")))
    if settings.projector_bytes:
        terms.append(Term(name=_LABELS["projector"], amount=settings.projector_bytes, note="for --vision"))
    spare = settings.needed_bytes - sum(term.amount for term in terms)
    terms.append(Term(name="spare", amount=spare, note="fragmentation, prompts, the outer limit"))
    return tuple(terms)


def _weight_groups(entry: ModelEntry, file: ModelFile) -> dict[str, tuple[int, str]]:
    """Bytes and tensor types of each group of weights; {} for a network that cannot be laid out."""
    try:
        published = None if follows_rules(entry.geometry, file.quant) else file.bytes
        tensors = tensor_plan(entry.arch, entry.geometry, file.quant, published_bytes=published)
    except DataInvalid:
        return {}
    sizes: dict[str, int] = {}
    kinds: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        group = next((label for part, label in _GROUPS if part in f".{tensor.name}"), None)
        if group is None or len(tensor.shape) < 2:
            continue
        sizes[group] = sizes.get(group, 0) + tensor.size_bytes
        of = kinds.setdefault(group, {})
        of[tensor.ggml_type] = of.get(tensor.ggml_type, 0) + tensor.size_bytes
    order = sorted(sizes, key=lambda name: -sizes[name])
    return {name: (sizes[name], _named(kinds[name])) for name in order}


def _named(kinds: dict[str, int]) -> str:
    """The types of a group, those that matter."""
    total = sum(kinds.values())
    main = sorted((kind for kind in kinds if kinds[kind] * 20 >= total), key=lambda kind: -kinds[kind])
    return ", ".join(main)


_PARTS = {
    "step": "fixed part of a step", "operations": "small operations", "rows": "rows of matrices",
    "state": "recurrent state",
    "attention": "attention to the prompt", "output": "output head and last feed-forward",
}  # fmt: skip


def _measured(parts: dict[str, float]) -> tuple[Term, ...]:
    """The parts of a step as they were fitted to measurements, the dearest first; in ms."""
    terms = [Term(name=_PARTS.get(name, name), amount=1000 * seconds) for name, seconds in parts.items()]
    return tuple(sorted((term for term in terms if term.amount > 0), key=lambda term: -term.amount))


def _estimated(decode_ms: float, entry: ModelEntry, file: ModelFile, speed: DeviceSpeed) -> tuple[Term, ...]:
    """A constant, and the weights one token reads, each group by its bytes."""
    fixed_ms = min(1000 * speed.overhead_s, decode_ms)
    groups = _weight_groups(entry, file)
    read: dict[str, tuple[float, str]] = {}
    for name, (size_bytes, kinds) in groups.items():
        if name == "experts":
            used, every = entry.geometry.experts_per_token, entry.geometry.experts
            read[name] = (size_bytes * used / every, f"{kinds}, {used} of {every}")
        elif name != "embedding" or "output head" not in groups:  # else one row of it is read
            as_head = ", as the output head" if name == "embedding" else ""
            read[name] = (float(size_bytes), kinds + as_head)
    read = read or {"all": (float(file.bytes), file.quant)}
    total = sum(touched for touched, _ in read.values())
    terms = [Term(name="fixed part of a step", amount=fixed_ms, note="threads, sampling, small operations")]
    for name, (touched, kinds) in sorted(read.items(), key=lambda item: -item[1][0]):
        note = f"{touched / MIB:,.0f} MiB read, {kinds}"
        amount = (decode_ms - fixed_ms) * touched / total
        terms.append(Term(name=f"weights: {name}", amount=amount, note=note))
    return tuple(terms)
