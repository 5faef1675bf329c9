"""The engine settings that suit one model file here: context, slots, KV type, step size, repacking."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from edgectl.errors import DataInvalid
from edgectl.models.tensor_plan import follows_rules, tensor_plan
from edgectl.planning.catalog import ModelEntry, ModelFile
from edgectl.planning.memory import (
    KvType,
    MemoryEstimate,
    estimate_memory,
    mapped_bytes,
    unit_memory_max_bytes,
    worker_budget_bytes,
)
from edgectl.planning.repack import repacked_bytes
from edgectl.planning.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Repack", "Settings", "choose_settings", "rungs", "with_repacking"]

MIB = 1 << 20
Repack = Literal["auto", "off"]  # as edged's configuration has it; auto: its self-test decides
USUAL_CONTEXT_TOKENS = 4096  # a few pages and an answer
LESS_CONTEXT_TOKENS = 2048  # one page, a question and an answer
USUAL_SLOTS = 2  # a second question does not wait for a long first answer
MORE_CONTEXT_TOKENS = (32_768, 16_384, 8192)
PLENTY_SHARE = 0.5  # a longer context than usual is taken only from memory that would lie idle
LONGEST_READ_S = 120.0  # a context that takes longer to read helps nobody
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")  # q4_0 loses too much to be chosen unasked
UBATCHES = (256, 128, 64, 32)
CANCEL_LATENCY_S = 4.0  # a cancelled prompt is noticed between compute steps
# Activations of the image encoder for one picture of about a megapixel; assumed, not measured.
PROJECTOR_COMPUTE_BYTES = 256 * MIB


class Settings(Struct, frozen=True, kw_only=True):
    """How the engine runs one file, and what that takes.

    ``rung`` counts the steps taken below the usual context and slots. ``needed_bytes`` is the least limit on
    the whole service; ``limit_bytes`` that limit and ``worker_bytes`` the one on the worker's anonymous
    memory, with weights that are repacked or not mapped.
    """

    context_tokens: int
    slots: int
    rung: int
    kv_type: KvType
    ubatch: int
    mmap: bool
    repack: Repack
    memory: MemoryEstimate
    projector_bytes: int
    needed_bytes: int
    limit_bytes: int
    worker_bytes: int


def rungs(wishes: Wishes, longest_tokens: int) -> tuple[tuple[int, int], ...]:
    """(context, slots) that the wishes leave, the fullest first; only one when both are given.

    A context that nobody asked for is no longer than ``longest_tokens``, for which the model was trained.
    """
    unasked = (min(tokens, longest_tokens) for tokens in (USUAL_CONTEXT_TOKENS, LESS_CONTEXT_TOKENS))
    contexts = tuple(dict.fromkeys(unasked)) if wishes.context_tokens is None else (wishes.context_tokens,)
    slots = (USUAL_SLOTS, 1) if wishes.slots is None else (wishes.slots,)
    return (
        *((contexts[0], count) for count in slots),
        *((context, slots[-1]) for context in contexts[1:]),
    )


class _Case(Struct, frozen=True, kw_only=True):
    """One file, what is asked of it, and what the computer has."""

    entry: ModelEntry
    file: ModelFile
    wishes: Wishes
    memory_bytes: int
    prefill_tps: float
    mmap: bool

    def settings(self, rung: int, context_tokens: int, slots: int, kv_type: KvType, ubatch: int) -> Settings:
        """With what it takes. A step holds a token of every slot at least."""
        ubatch = max(ubatch, slots)
        memory = estimate_memory(
            self.entry.geometry,
            mapped_bytes(self.entry.geometry, self.file.bytes),
            context_tokens=context_tokens,
            slots=slots,
            ubatch_tokens=ubatch,
            kv_type=kv_type,
            mmap=self.mmap,
        )
        projector = _projector_bytes(self.entry) if self.wishes.vision else 0
        needed_bytes = unit_memory_max_bytes(memory) + projector
        return Settings(
            context_tokens=context_tokens,
            slots=slots,
            rung=rung,
            kv_type=kv_type,
            ubatch=ubatch,
            mmap=self.mmap,
            repack="off",
            memory=memory,
            projector_bytes=projector,
            needed_bytes=needed_bytes,
            limit_bytes=needed_bytes,
            worker_bytes=worker_budget_bytes(memory) + projector,
        )

    def quick_ubatches(self) -> tuple[int, ...]:
        """Steps that are over in time to notice a cancelled request; the smallest in any case."""
        quick = tuple(size for size in UBATCHES if size <= CANCEL_LATENCY_S * self.prefill_tps)
        return quick or UBATCHES[-1:]

    def fullest(self) -> Settings | None:
        """The first that fits, from the fullest down; None when none does."""
        for rung, (context, slots) in enumerate(rungs(self.wishes, self.entry.context_max_tokens)):
            for kv_type, ubatch in product(KV_TYPES, self.quick_ubatches()):
                found = self.settings(rung, context, slots, kv_type, ubatch)
                if found.needed_bytes <= self.memory_bytes:
                    return found
        return None

    def smallest(self) -> Settings:
        """The least that it takes, whether or not that fits."""
        *fuller, (context, slots) = rungs(self.wishes, self.entry.context_max_tokens)
        last = len(fuller)
        tried = [self.settings(last, context, slots, kv_type, UBATCHES[-1]) for kv_type in KV_TYPES]
        return min(tried, key=lambda one: one.needed_bytes)

    def grown(self, usual: Settings) -> Settings:
        """``usual`` with the longest context that memory to spare and patience allow."""
        for context in MORE_CONTEXT_TOKENS:
            if context > min(self.entry.context_max_tokens, LONGEST_READ_S * self.prefill_tps):
                continue
            more = self.settings(0, context, usual.slots, usual.kv_type, usual.ubatch)
            if more.needed_bytes <= PLENTY_SHARE * self.memory_bytes:
                return more
        return usual


def choose_settings(
    entry: ModelEntry, file: ModelFile, wishes: Wishes, *, memory_bytes: int, prefill_tps: float, mmap: bool
) -> Settings:
    """The fullest settings that fit ``memory_bytes``, else the smallest there are.

    An exact KV cache comes before large steps, and context and slots before an exact cache. Only where
    the whole takes less than half of the memory does an unasked context grow.
    """
    case = _Case(
        entry=entry,
        file=file,
        wishes=wishes,
        memory_bytes=memory_bytes,
        prefill_tps=prefill_tps,
        mmap=mmap,
    )
    found = case.fullest()
    if found is None:
        return case.smallest()
    if wishes.context_tokens is None and found.rung == 0 and found.kv_type == KV_TYPES[0]:
        found = case.grown(found)
    return found


def with_repacking(
    settings: Settings,
    entry: ModelEntry,
    file: ModelFile,
    *,
    memory_bytes: int,
    cpu_features: Collection[str],
) -> Settings:
    """``settings`` that let the engine repack weights, where a second copy of them has room too."""
    if not settings.mmap:
        return settings
    memory = structs.replace(settings.memory, repacked_bytes=_repacked_bytes(entry, file, cpu_features))
    limit_bytes = unit_memory_max_bytes(memory) + settings.projector_bytes
    if limit_bytes > memory_bytes:
        return settings
    return structs.replace(
        settings,
        repack="auto",
        memory=memory,
        limit_bytes=limit_bytes,
        worker_bytes=worker_budget_bytes(memory) + settings.projector_bytes,
    )


def _repacked_bytes(entry: ModelEntry, file: ModelFile, cpu_features: Collection[str]) -> int:
    """The copy that this CPU's kernels want; of a network that cannot be laid out, as large as the file."""
    try:
        published = None if follows_rules(entry.geometry, file.quant) else file.bytes
        tensors = tensor_plan(entry.arch, entry.geometry, file.quant, published_bytes=published)
    except DataInvalid:
        return file.bytes
    return repacked_bytes(tensors, cpu_features)


def _projector_bytes(entry: ModelEntry) -> int:
    """The image projector, which the engine reads into memory of its own, in whole MiB; 0 without one."""
    if entry.vision is None:
        return 0
    return -(-(entry.vision.bytes + PROJECTOR_COMPUTE_BYTES) // MIB) * MIB
