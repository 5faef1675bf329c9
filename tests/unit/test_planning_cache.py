"""The cache in a plan: one system prompt before other wishes, and never beyond the memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.planning.cache import (
    SHARE,
    SYSTEM_TOKENS,
    SYSTEMS,
    saved_bytes,
    with_conversations,
    with_system_prompt,
)
from edgectl.planning.catalog import load_catalog
from edgectl.planning.memory import state_bytes_per_sequence, unit_memory_max_bytes, worker_budget_bytes
from edgectl.planning.settings import choose_settings
from edgectl.planning.wishes import Wishes

MIB = 1 << 20
CATALOG = load_catalog()
MODELS = ("smollm2-135m-instruct", "qwen3.5-0.8b", "qwen3.5-4b", "qwen3.5-35b-a3b")


def cached(model: str, memory_mib: int, *, mmap: bool = True):
    """The settings of the model's first file, without and with a cache."""
    entry = CATALOG.model(model)
    memory_bytes = memory_mib * MIB
    bare = choose_settings(
        entry, entry.files[0], Wishes(), memory_bytes=memory_bytes, prefill_tps=50.0, mmap=mmap
    )
    one = with_system_prompt(bare, entry.geometry, memory_bytes=memory_bytes)
    return entry.geometry, bare, one, with_conversations(one, entry.geometry, memory_bytes=memory_bytes)


def test_a_saved_prompt_of_qwen_is_its_recurrent_state_and_little_more():
    geometry = CATALOG.model("qwen3.5-0.8b").geometry
    assert saved_bytes(geometry, 512, "f16") / MIB == pytest.approx(25.3, abs=0.1)
    assert saved_bytes(geometry, 1, "f16") > state_bytes_per_sequence(geometry)
    assert saved_bytes(geometry, 512, "q8_0") < saved_bytes(geometry, 512, "f16")


@given(st.sampled_from(MODELS), st.integers(300, 40_000), st.booleans())
def test_the_cache_never_breaks_the_memory_and_the_limits_grow_with_it(model, memory_mib, mmap):
    _, bare, one, more = cached(model, memory_mib, mmap=mmap)
    assert bare.limit_bytes <= one.limit_bytes <= more.limit_bytes
    assert bare.needed_bytes == one.needed_bytes == more.needed_bytes
    if bare.needed_bytes <= memory_mib * MIB:
        assert more.limit_bytes <= memory_mib * MIB
    for settings in (one, more):
        size = settings.memory.cache_bytes
        assert settings.limit_bytes == bare.limit_bytes + (
            unit_memory_max_bytes(settings.memory) - unit_memory_max_bytes(bare.memory)
        )
        assert settings.worker_bytes - bare.worker_bytes >= size
        assert worker_budget_bytes(settings.memory) > settings.memory.anon_bytes
        assert size % MIB == 0
    if more.memory.cache_bytes > one.memory.cache_bytes:
        assert more.limit_bytes <= SHARE * memory_mib * MIB


@given(st.sampled_from(MODELS), st.integers(300, 40_000))
def test_there_is_room_for_one_system_prompt_wherever_it_fits(model, memory_mib):
    geometry, bare, one, _ = cached(model, memory_mib)
    size = -(-saved_bytes(geometry, SYSTEM_TOKENS, bare.kv_type) // MIB) * MIB
    room = memory_mib * MIB - bare.limit_bytes
    assert one.memory.cache_bytes in {0, size}
    if room >= 1.2 * size + 2 * MIB:
        assert one.memory.cache_bytes == size


def test_with_memory_to_spare_it_holds_the_conversation_of_each_slot():
    geometry, bare, _, more = cached("qwen3.5-0.8b", 16_000)
    systems = SYSTEMS * saved_bytes(geometry, SYSTEM_TOKENS, "f16")
    turns = bare.slots * saved_bytes(geometry, bare.context_tokens, "f16")
    assert more.memory.cache_bytes == pytest.approx(systems + turns, abs=MIB)


def test_without_room_for_one_system_prompt_there_is_no_cache():
    _, bare, _, _ = cached("qwen3.5-4b", 8000)
    _, _, one, more = cached("qwen3.5-4b", bare.needed_bytes // MIB + 1)
    assert one.memory.cache_bytes == more.memory.cache_bytes == 0
