"""Drafts are for boxes where they pay, in time by a measurement at load, in memory by the budget."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from edged.engine.load_order import load_order
from edged.engine.tuner import Tuner
from edged.host.config import parse
from edged.ipc.messages import EngineOptions, Load
from edged.worker.backends.fake import FakeBackend, Script
from edged.worker.draft_cost import LEAST_GAIN, load_within_budget, price_of_drafts
from edged.worker.speculate import NOTHING, StepCost, best_gain
from tests.kit.service import fake_model, fake_tree

DRAFTS = 7
OPTIONS = EngineOptions(context=256, slots=2, ubatch=16, threads=1, speculate="on")
ORDER = Load(path="x.fake", backend="fake", options=OPTIONS)


def loaded(order: Load = ORDER) -> FakeBackend:
    return FakeBackend(Script(draft_tokens=DRAFTS), order.options)


def priced(cost: StepCost, wanted="auto"):
    """What comes of it where steps take what ``cost`` says; and how many there were."""
    backend, now, steps = loaded(), [0.0], []
    step = backend.step

    def timed(runs):
        now[0] += cost.seconds(sum(len(run.tokens) for run in runs))
        return step(runs)

    backend.step = timed
    found = price_of_drafts(backend, wanted, lambda: steps.append(1), lambda: now[0])
    assert backend._cells == {}
    return found, len(steps)


def costing(gain: float) -> StepCost:
    """Steps of which the best draft makes ``gain`` times as many tokens."""
    token_s = ((1 + DRAFTS) / gain - 1) / DRAFTS / 100
    return StepCost(0.01 - token_s, token_s)


def test_drafts_that_are_worth_it_at_their_best_are_tried():
    cost = costing(LEAST_GAIN + 0.01)
    found, steps = priced(cost)
    assert steps > 2
    assert found is not None
    assert best_gain(found, DRAFTS) == pytest.approx(LEAST_GAIN + 0.01)


def test_drafts_that_are_not_worth_it_even_at_their_best_are_not_tried():
    assert priced(costing(LEAST_GAIN - 0.01))[0] is None


def test_drafts_that_are_asked_for_are_tried_unmeasured_and_those_that_cannot_be_are_not():
    assert priced(costing(0.9), wanted="on") == (NOTHING, 0)
    without = FakeBackend(Script(), OPTIONS)
    assert price_of_drafts(without, "on", lambda: None) is None


@pytest.mark.parametrize(
    ("budget_bytes", "speculate", "drafts", "loads"),
    [
        (0, "on", DRAFTS, 1),  # nobody says
        (1 << 40, "on", DRAFTS, 1),
        (1 << 40, "on with a large cache", 0, 2),
        (1 << 20, "on", 0, 2),  # less than any process takes
        (1 << 20, "auto", DRAFTS, 1),  # included in every plan
        (1 << 20, "off", 0, 1),
    ],
)
def test_drafts_that_are_asked_for_give_way_to_the_memory_budget(
    budget_bytes, speculate, drafts, loads, caplog
):
    orders = []

    def load(order: Load) -> FakeBackend:
        orders.append(order)
        return loaded(order)

    mode = speculate.partition(" ")[0]
    order = structs.replace(
        ORDER,
        budget_bytes=budget_bytes,
        cache_bytes=1 << 40 if "cache" in speculate else 0,
        options=structs.replace(OPTIONS, speculate=mode),
    )
    assert load_within_budget(order, load).draft_tokens == drafts
    assert len(orders) == loads
    assert ["memory.budget_mib" in line for line in caplog.messages] == [True] * (loads - 1)


def test_the_worker_is_told_its_budget(tmp_path):
    config = parse(fake_tree(fake_model(tmp_path), memory={"budget_mib": 100}))
    tuner = Tuner(config, tmp_path / "selftest.json", place=lambda _pid: None)
    assert asyncio.run(load_order(config, tuner, tmp_path)).budget_bytes == 100 << 20
