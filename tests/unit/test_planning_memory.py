"""The memory formulas, against figures worked out from the engine's source and logs of its runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.planning.catalog import Geometry, load_catalog
from edgectl.planning.memory import (
    MIB,
    cells_per_sequence,
    estimate_memory,
    kv_bytes_per_token,
    kv_cache_bytes,
    mapped_bytes,
    reserved_logits_bytes,
    state_bytes_per_sequence,
    unit_memory_max_bytes,
    window_cells_per_sequence,
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
GEMMA3_270M = Geometry(
    layers=18,
    hidden=640,
    feed_forward=2048,
    heads=4,
    kv_heads=1,
    head_dim=256,
    vocab=262_144,
    tied_embeddings=True,
    sliding_window=512,
    sliding_interval=6,
    merges=0,
)
QWEN3_0_6B = Geometry(
    layers=28,
    hidden=1024,
    feed_forward=3072,
    heads=16,
    kv_heads=8,
    head_dim=128,
    vocab=151_936,
    tied_embeddings=True,
)
GEOMETRIES = [*(entry.geometry for entry in CATALOG.models), GEMMA3_270M, QWEN3_0_6B]


@pytest.mark.parametrize("name", WORKED)
def test_kv_cache_and_state_equal_the_worked_values(name):
    geometry = CATALOG.model(name).geometry
    f16, q8_0, q4_0, state = WORKED[name]
    assert kv_bytes_per_token(geometry, "f16") == f16
    assert kv_bytes_per_token(geometry, "q8_0") == q8_0
    assert kv_bytes_per_token(geometry, "q4_0") == q4_0
    assert state_bytes_per_sequence(geometry) == state


@pytest.mark.parametrize(
    ("geometry", "token_bytes"),
    [
        (CATALOG.model("smollm2-135m-instruct").geometry, 30 * 2 * 3 * 64 * 2),
        (QWEN3_0_6B, 28 * 2 * 8 * 128 * 2),
    ],
)
def test_every_layer_of_a_pure_attention_model_has_a_kv_cache_and_none_has_a_state(geometry, token_bytes):
    assert kv_bytes_per_token(geometry, "f16") == token_bytes
    assert state_bytes_per_sequence(geometry) == 0
    size = kv_cache_bytes(geometry, context_tokens=1024, slots=2, ubatch_tokens=64, kv_type="f16")
    assert size == 2048 * token_bytes


def test_a_sliding_window_holds_itself_and_a_step_in_whole_pieces():
    # As the engine logs it for 4 slots of 4,096 tokens in steps of 64: 48 MiB in 3 layers of 4,096 cells, and
    # 45 MiB in 15 layers of 768.
    assert (GEMMA3_270M.kv_layers, GEMMA3_270M.sliding_layers, GEMMA3_270M.linear_layers) == (3, 15, 0)
    assert window_cells_per_sequence(512, 4096, 64) == 768
    size = kv_cache_bytes(GEMMA3_270M, context_tokens=4096, slots=4, ubatch_tokens=64, kv_type="f16")
    assert size == 93 * MIB
    # A context below the window has the same cells in every layer.
    size = kv_cache_bytes(GEMMA3_270M, context_tokens=256, slots=1, ubatch_tokens=64, kv_type="f16")
    assert size == 256 * 18 * 2 * 256 * 2


@pytest.mark.parametrize(
    ("context", "slots", "cells"), [(1, 1, 256), (1000, 1, 1024), (300, 3, 512), (256, 4, 256)]
)
def test_cells_come_in_whole_pieces_for_each_sequence(context, slots, cells):
    assert cells_per_sequence(context, slots) == cells


def test_a_logged_run_of_27b_with_four_slots_is_met():
    # llama.cpp #20153: 598.5 MiB of recurrent state for four sequences.
    geometry = CATALOG.model("qwen3.5-27b").geometry
    assert 4 * state_bytes_per_sequence(geometry) / MIB == pytest.approx(598.5, abs=0.1)


def test_the_engine_keeps_no_state_but_that_of_its_slots():
    geometry = CATALOG.model("qwen3.5-0.8b").geometry
    estimate = estimate_memory(geometry, 0, context_tokens=512, slots=3, ubatch_tokens=64)
    assert estimate.state_bytes == 3 * state_bytes_per_sequence(geometry)


def test_logits_of_a_large_step_would_be_half_a_gigabyte_and_are_not_reserved():
    geometry = CATALOG.model("qwen3.5-0.8b").geometry
    assert reserved_logits_bytes(geometry, 512) == 485 * MIB
    large = estimate_memory(geometry, 0, context_tokens=4096, slots=1, ubatch_tokens=512)
    assert large.compute_bytes < 80 * MIB


def test_the_file_of_a_catalogued_model_is_mapped_but_for_most_of_its_header():
    entry, file = CATALOG.find("qwen3.5-0.8b:Q4_K_M")
    tensors_bytes = 521_555_424  # the published file less its header of 10,961,696
    mapped = mapped_bytes(entry.geometry, file.bytes)
    assert tensors_bytes <= mapped <= 1.005 * tensors_bytes
    assert mapped_bytes(entry.geometry, 1) == 0


@st.composite
def needs(draw):
    return {
        "context_tokens": draw(st.integers(1, 200_000)),
        "slots": draw(st.integers(1, 16)),
        "ubatch_tokens": draw(st.integers(16, 1024)),
    }


@given(st.sampled_from(GEOMETRIES), needs(), st.sampled_from(["context_tokens", "slots", "ubatch_tokens"]))
def test_more_context_slots_or_larger_steps_never_take_less(geometry, need, what):
    more = {**need, what: need[what] + 1}
    less_bytes = estimate_memory(geometry, 0, **need).worker_bytes
    more_bytes = estimate_memory(geometry, 0, **more).worker_bytes
    # Cells for each of more slots are rounded anew, which may free a piece of 256 cells a slot.
    spare = 0
    if what == "slots":
        cell_bytes = kv_bytes_per_token(geometry, "f16") + 200 + 2 * need["ubatch_tokens"]
        spare = 256 * more["slots"] * cell_bytes
    assert less_bytes <= more_bytes + spare


@given(st.sampled_from(GEOMETRIES), needs())
def test_a_quantized_cache_takes_less_from_4096_tokens_on(geometry, need):
    need = {**need, "context_tokens": need["context_tokens"] + 4096}
    exact = estimate_memory(geometry, 0, kv_type="f16", **need).anon_bytes
    assert estimate_memory(geometry, 0, kv_type="q8_0", **need).anon_bytes < exact


def test_limits_nest_the_worker_inside_the_unit():
    entry, file = CATALOG.find("qwen3.5-2b")
    estimate = estimate_memory(entry.geometry, file.bytes, context_tokens=4096, slots=2, ubatch_tokens=64)
    budget, unit = worker_budget_bytes(estimate), unit_memory_max_bytes(estimate)
    assert estimate.anon_bytes + 32 * MIB < budget
    assert unit > budget + estimate.weights_bytes + estimate.supervisor_bytes
    assert unit > estimate.total_bytes
    assert budget % MIB == unit % MIB == 0
    repacked = estimate_memory(
        entry.geometry, file.bytes, context_tokens=4096, slots=2, ubatch_tokens=64, repacked_bytes=500 * MIB
    )
    assert repacked.anon_bytes == estimate.anon_bytes + 500 * MIB
    assert worker_budget_bytes(repacked) >= budget + 500 * MIB
