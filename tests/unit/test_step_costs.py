"""The speed model: what a network makes the engine do, and costs found again from timings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgectl.planning.calibrate import (
    Timing,
    choose_threads,
    fit_calibration,
    samples,
    thread_choices,
)
from edgectl.planning.catalog import load_catalog
from edgectl.planning.least_squares import fit_nonnegative
from edgectl.planning.step_costs import Observation, StepCosts, fit_step_costs, step_parts_s
from edgectl.planning.work import work_of_file
from edgectl.probe import planned_device

# By hand from the published geometry: state bytes of a sequence; tensors in 18 or 24 layers of DeltaNet (14
# each) and 6 or 8 of attention (11 each); elements attended to a token of depth.
KNOWN_WORK = {
    "qwen3.5-0.8b": (20_201_472, 18 * 14 + 6 * 11, 6 * 2 * 8 * 256),
    "qwen3.5-2b": (20_201_472, 18 * 14 + 6 * 11, 6 * 2 * 8 * 256),
    "qwen3.5-4b": (52_690_944, 24 * 14 + 8 * 11, 8 * 2 * 16 * 256),
    "qwen3.5-9b": (52_690_944, 24 * 14 + 8 * 11, 8 * 2 * 16 * 256),
}
SAMPLED = tuple((sample.term, sample.work) for sample in samples())
WHOLE = work_of_file(*load_catalog().find("qwen3.5-2b:Q4_K_M"))
SECONDS = st.floats(1e-5, 5e-3)
PER_BYTE = st.floats(2e-11, 2e-9)


def step_s(costs: StepCosts, one: Observation) -> float:
    return sum(step_parts_s(costs, one.work, depth_tokens=one.depth_tokens, head=one.head).values())


def observed(costs: StepCosts) -> list[Observation]:
    """What a calibration would see where steps cost exactly ``costs``."""
    blank = [
        Observation(work=work, depth_tokens=depth, head=costs.tokens < 128, seconds=1.0)
        for term, work in SAMPLED
        for depth in ((0.5, 1028.0) if term == "attention" else (0.5,))
    ]
    return [replace(one, seconds=step_s(costs, one)) for one in blank]


@pytest.mark.parametrize(("model", "known"), KNOWN_WORK.items())
def test_the_work_of_a_model_follows_from_its_geometry(model, known):
    work = work_of_file(*load_catalog().find(f"{model}:Q4_K_M"))
    assert (work.state_bytes, work.operations, work.attended(1)) == known


def test_every_weight_is_read_once_and_an_untied_embedding_is_not():
    entry, file = load_catalog().find("qwen3.5-9b:Q8_0")
    work = work_of_file(entry, file)
    embedding = entry.geometry.vocab * entry.geometry.hidden * 34 / 32
    read = sum(work.weight_bytes.values()) + sum(work.head_bytes.values())
    assert read == pytest.approx(file.bytes - embedding, rel=0.005)


def test_a_token_without_logits_spares_the_head_and_the_last_feed_forward():
    entry, file = load_catalog().find("qwen3.5-2b:Q8_0")
    geometry, bytes_a_weight = entry.geometry, 34 / 32
    spared = geometry.vocab * geometry.hidden + 3 * geometry.hidden * geometry.feed_forward
    assert work_of_file(entry, file).head_bytes == {"Q8_0": spared * bytes_a_weight}


def test_of_a_mixture_of_experts_only_those_used_count():
    entry, file = load_catalog().find("qwen3.5-35b-a3b:Q8_0")
    work = work_of_file(entry, file)
    assert sum(work.weight_bytes.values()) < 0.12 * file.bytes


@settings(deadline=None)
@given(SECONDS, SECONDS, *[st.floats(1e-10, 1e-8)] * 4, st.lists(PER_BYTE, min_size=9))
def test_the_fit_finds_the_costs_that_made_the_timings(
    fixed, operation, row, state, attention, narrow, weights
):
    types = sorted({name for _, work in SAMPLED for name in work.weight_bytes})
    costs = StepCosts(
        tokens=1, fixed_s=fixed, operation_s=operation, row_s=row, state_s=state, attention_s=attention,
        narrow_attention_s=narrow,
        weight_s=dict(zip(types, weights, strict=False)),
    )  # fmt: skip
    seen = observed(costs)
    fitted = fit_step_costs(1, seen)
    assert [step_s(fitted, one) for one in seen] == pytest.approx([one.seconds for one in seen], rel=0.01)
    # And what was never timed follows: all layers of a model of the catalogue.
    whole = Observation(work=WHOLE, depth_tokens=512, head=True, seconds=1.0)
    assert step_s(fitted, whole) == pytest.approx(step_s(costs, whole), rel=0.1)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=8), st.data())
def test_no_coefficient_is_negative_and_none_alone_would_do_better(rows, data):
    values = data.draw(st.lists(st.floats(0.1, 10), min_size=len(rows), max_size=len(rows)))

    def error(found):
        return sum(
            (sum(a * b for a, b in zip(row, found, strict=True)) / value - 1) ** 2
            for row, value in zip(rows, values, strict=True)
        )

    found = fit_nonnegative(rows, values)
    assert min(found) >= 0
    for index in range(2):
        for factor in (0.9, 1.1):
            other = [one * factor if place == index else one for place, one in enumerate(found)]
            assert error(found) <= error(other) + 1e-6


def test_a_type_that_nobody_timed_costs_what_its_neighbour_costs():
    costs = StepCosts(
        tokens=1, fixed_s=0, operation_s=0, row_s=0, state_s=0, attention_s=0, narrow_attention_s=0,
        weight_s={"Q4_K": 1.0, "Q8_0": 2.0},
    )  # fmt: skip
    assert costs.per_byte_s("Q5_0") == 1.0
    assert costs.per_byte_s("F16") == 2.0
    assert costs.per_byte_s("IQ4_XS") > 1.0  # looked up in tables


def test_disturbed_steps_do_not_count():
    sample = samples()[0]
    calm = [
        Timing(
            sample="Q4_K",
            tokens=tokens,
            observation=Observation(work=sample.work, depth_tokens=0.5, head=tokens == 1, seconds=seconds),
        )
        for tokens, seconds in ((1, 0.01), (128, 0.5))
        for _ in range(8)
    ]
    disturbed = [
        replace(one, observation=replace(one.observation, seconds=one.observation.seconds * 20))
        for one in calm
    ]
    steps, spread = fit_calibration([*calm, *disturbed[:6]])
    assert steps == fit_calibration(calm)[0]
    assert fit_calibration(calm)[1] == 0.0
    assert spread > 0.0


def test_threads_are_the_fewest_that_are_about_as_quick():
    assert choose_threads({4: 10.0, 3: 9.9, 2: 7.0}) == 3
    assert choose_threads({2: 1.7, 1: 23.0}) == 1  # a busy neighbour
    assert choose_threads({4: 10.0, 3: 8.0}) == 4
    assert thread_choices(planned_device("rock5b-8gb")) == (4, 3, 2)  # of the four fast cores


def test_samples_are_small_but_larger_than_a_cache():
    for sample in samples():
        assert sample.plan.weights_bytes < 256 << 20, sample.term
    assert all(one.plan.weights_bytes > 48 << 20 for one in samples() if one.term.startswith("Q"))
