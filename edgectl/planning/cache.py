"""How much memory to set aside for what prompts have in common, so that it is read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import structs

from edgectl.planning.memory import (
    KvType,
    kv_bytes_per_cell,
    state_bytes_per_sequence,
    unit_memory_max_bytes,
    worker_budget_bytes,
)

if TYPE_CHECKING:
    from edgectl.planning.catalog import Geometry
    from edgectl.planning.settings import Settings

__all__ = ["SYSTEM_TOKENS", "saved_bytes", "with_conversations", "with_system_prompt"]

MIB: Final = 1 << 20
SYSTEM_TOKENS: Final = 512  # a page of instructions
SYSTEMS: Final = 4  # as many in use at the same time
# Beyond one system prompt the cache is a convenience; the page cache has better use for the last quarter.
SHARE: Final = 0.75
# The engine writes a token's position, sequence and place in an image beside it, the worker its number.
SAVED_TOKEN_BYTES: Final = 32
SAVED_BYTES: Final = 4096  # headers of each layer, and a last page that is not full


def saved_bytes(geometry: Geometry, tokens: int, kv_type: KvType) -> int:
    """The state of a sequence of ``tokens``, saved: keys and values of these tokens, and recurrent state."""
    windowed = geometry.sliding_layers * min(tokens, geometry.sliding_window)
    cells = geometry.kv_layers * tokens + windowed
    kv = cells * kv_bytes_per_cell(geometry, kv_type)
    return kv + state_bytes_per_sequence(geometry) + tokens * SAVED_TOKEN_BYTES + SAVED_BYTES


def with_system_prompt(settings: Settings, geometry: Geometry, *, memory_bytes: int) -> Settings:
    """``settings`` with a cache for one system prompt, where that fits ``memory_bytes``."""
    one = saved_bytes(geometry, SYSTEM_TOKENS, settings.kv_type)
    cached = _with_cache(settings, one)
    return cached if cached.limit_bytes <= memory_bytes else settings


def with_conversations(settings: Settings, geometry: Geometry, *, memory_bytes: int) -> Settings:
    """``settings`` with a cache for some system prompts and a full context a slot, or what has room of it."""
    if not settings.memory.cache_bytes:
        return settings
    systems = SYSTEMS * saved_bytes(geometry, SYSTEM_TOKENS, settings.kv_type)
    turns = settings.slots * saved_bytes(geometry, settings.context_tokens, settings.kv_type)
    size = systems + turns
    while size > settings.memory.cache_bytes:
        cached = _with_cache(settings, size)
        if cached.limit_bytes <= SHARE * memory_bytes:
            return cached
        size //= 2
    return settings


def _with_cache(settings: Settings, size_bytes: int) -> Settings:
    """In whole MiB, as the configuration has it; the limits grow with it."""
    memory = structs.replace(settings.memory, cache_bytes=-(-size_bytes // MIB) * MIB)
    more = unit_memory_max_bytes(memory) - unit_memory_max_bytes(settings.memory)
    worker_more = worker_budget_bytes(memory) - worker_budget_bytes(settings.memory)
    return structs.replace(
        settings,
        memory=memory,
        limit_bytes=settings.limit_bytes + more,
        worker_bytes=settings.worker_bytes + worker_more,
    )
