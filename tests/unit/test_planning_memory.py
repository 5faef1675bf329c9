"""The memory formulas, against figures worked out from the engine's source and logs of its runs."""

from __future__ import annotations

import pytest

from edgectl.planning.catalog import load_catalog
from edgectl.planning.memory import (
    MIB,
    estimate_memory,
    kv_bytes_per_token,
    reserved_logits_bytes,
    state_bytes_per_sequence,
    unit_memory_max_bytes,
    worker_budget_bytes,
)

# model: KV bytes a token in f16, q8_0, q4_0; recurrent state of one sequence
WORKED = {
    "qwen3.5-0.8b": (12_288, 6_528, 3_456, 20_201_472),
    "qwen3.5-2b": (12_288, 6_528, 3_456, 20_201_472),
    "qwen3.5-4b": (32_768, 17_408, 9_216, 52_690_944),
    "qwen3.5-9b": (32_768, 17_408, 9_216, 52_690_944),
    "qwen3.5-27b": (65_536, 34_816, 18_432, 156_893_184),
    "qwen3.5-35b-a3b": (20_480, 10_880, 5_760, 65_863_680),
}
CATALOG = load_catalog()


@pytest.mark.parametrize("name", WORKED)
def test_kv_cache_and_state_equal_the_worked_values(name):
    geometry = CATALOG.model(name).geometry
    f16, q8_0, q4_0, state = WORKED[name]
    assert kv_bytes_per_token(geometry, "f16") == f16
    assert kv_bytes_per_token(geometry, "q8_0") == q8_0
    assert kv_bytes_per_token(geometry, "q4_0") == q4_0
    assert state_bytes_per_sequence(geometry) == state


def test_every_layer_of_a_pure_attention_model_has_a_kv_cache_and_none_has_a_state():
    geometry = CATALOG.model("smollm2-135m-instruct").geometry
    assert kv_bytes_per_token(geometry, "f16") == 30 * 2 * 3 * 64 * 2
    assert state_bytes_per_sequence(geometry) == 0


def test_a_logged_run_of_27b_with_four_slots_is_met():
    # llama.cpp #20153: 598.5 MiB of recurrent state for four sequences.
    geometry = CATALOG.model("qwen3.5-27b").geometry
    assert 4 * state_bytes_per_sequence(geometry) / MIB == pytest.approx(598.5, abs=0.1)


def test_logits_of_a_large_step_are_reserved_but_not_counted_as_resident():
    geometry = CATALOG.model("qwen3.5-0.8b").geometry
    assert reserved_logits_bytes(geometry, 512) == 485 * MIB
    shape = {"context_tokens": 4096, "slots": 1}
    large = estimate_memory(geometry, 0, ubatch_tokens=512, **shape)
    assert large.compute_bytes < 80 * MIB


# name, context, slots, step, KV type, RssAnon measured after prefill and decode on every slot.
MEASURED = [
    ("smollm2-135m-instruct", 4096, 2, 64, "f16", 223.4),
    ("smollm2-135m-instruct", 4096, 2, 512, "f16", 235.1),
    ("smollm2-135m-instruct", 4096, 2, 64, "q8_0", 139.1),
    ("smollm2-135m-instruct", 1024, 1, 64, "f16", 65.2),
    ("qwen3.5-0.8b", 4096, 1, 64, "f16", 160.0),  # the upper of two runs; 147 the lower
    ("qwen3.5-4b", 8192, 4, 64, "f16", 562.0),
    ("qwen3.5-9b", 8192, 4, 64, "f16", 562.0),
]


@pytest.mark.parametrize(("name", "context", "slots", "ubatch", "kv_type", "measured_mib"), MEASURED)
def test_the_estimate_covers_what_was_measured_by_at_most_a_quarter(
    name, context, slots, ubatch, kv_type, measured_mib
):
    # The 4B and 9B runs had one cache of 8,192 tokens for all slots.
    per_slot = context // slots if name.startswith("qwen") else context
    estimate = estimate_memory(
        CATALOG.model(name).geometry,
        0,
        context_tokens=per_slot,
        slots=slots,
        ubatch_tokens=ubatch,
        kv_type=kv_type,
        parked_sequences=0,
    )
    assert measured_mib <= estimate.anon_bytes / MIB <= 1.25 * measured_mib


def test_limits_nest_the_worker_inside_the_unit():
    entry, file = CATALOG.find("qwen3.5-2b")
    estimate = estimate_memory(entry.geometry, file.bytes, context_tokens=4096, slots=2, ubatch_tokens=64)
    budget, unit = worker_budget_bytes(estimate), unit_memory_max_bytes(estimate)
    assert estimate.anon_bytes + 32 * MIB < budget
    assert unit > budget + estimate.weights_bytes + estimate.supervisor_bytes > estimate.total_bytes
    assert budget % MIB == unit % MIB == 0
