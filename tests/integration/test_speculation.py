"""Drafts change how many steps a real model needs, and nothing that it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edged.api.requests import Message, Sampling
from edged.ipc.messages import EngineOptions, Load
from edged.worker.backends.base import Run
from edged.worker.backends.llama import load_llama
from edged.worker.draft_cost import load_within_budget
from edged.worker.measure import measure_step_cost
from edged.worker.speculate import NOTHING
from tests.kit.decoding import Stage, prefill, watched
from tests.kit.model import smollm2
from tests.kit.random_model import random_model

pytestmark = pytest.mark.model
TOLERANCE = 1e-3  # of logits whose two largest are one apart
READINGS = "\n".join(f'{{"sensor": "door-{n}", "state": "closed", "battery": {90 - n}}}' for n in range(6))
COPYING = [
    f"Repeat these lines exactly:\n{READINGS}",
    "Write the word tomato twelve times, separated by commas.",
    "Say this three times: The quick brown fox jumps over the lazy dog.",
]


def options(speculate="on", **fields):
    fields = {"context": 512, "slots": 2, "ubatch": 64, **fields}
    return EngineOptions(threads=2, repack=False, speculate=speculate, **fields)


class Counted(Stage):
    """A loop that counts its steps."""

    def __init__(self, backend, options, **kwargs):
        super().__init__(backend, options, **kwargs)
        self.steps = 0
        self.loop._progressed = self._count

    def _count(self):
        self.steps += 1


def answers(backend, order, prompts, *, at_once, form=None, **kwargs):
    """Text and usage of each, and the steps that all took."""
    fields = {"max_tokens": 80, "sampling": Sampling(temperature=0.0), **(form or {})}
    stage = Counted(backend, order, **kwargs)
    for key, text in enumerate(prompts):
        stage.start(key, messages=(Message(role="user", content=text),), **fields)
        if not at_once:
            stage.play()
    stage.play()
    return [(stage.text(key), stage.end(key).usage) for key in range(len(prompts))], stage.steps


@pytest.fixture(scope="module")
def model():
    backend = load_llama(str(smollm2()), options(), lambda: None)
    yield backend
    backend.close()


@pytest.mark.parametrize("at_once", [False, True])
def test_greedy_answers_that_copy_are_the_same_with_drafts_and_take_fewer_steps(model, at_once):
    plain, usual_steps = answers(model, options(), COPYING, at_once=at_once)
    drafted, steps = answers(model, options(), COPYING, at_once=at_once, cost=NOTHING)
    assert drafted == plain
    assert steps < 0.8 * usual_steps


LIST = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "sensor": {"type": "string", "pattern": "^door-[0-9]$"},
            "state": {"enum": ["open", "closed"]},
            "battery": {"type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": ["sensor", "state", "battery"],
    },
    "minItems": 2,
    "maxItems": 4,
}


@pytest.mark.parametrize("at_once", [False, True])
def test_answers_with_a_form_are_the_same_with_drafts_and_take_fewer_steps(model, at_once):
    prompts = [f"Repeat these lines as JSON:\n{READINGS}", "List three doors as JSON."]
    form = {"schema": json.dumps(LIST), "max_tokens": 100}
    plain, usual_steps = answers(model, options(), prompts, at_once=at_once, form=form)
    drafted, steps = answers(model, options(), prompts, at_once=at_once, cost=NOTHING, form=form)
    assert drafted == plain
    assert steps < 0.8 * usual_steps
    for text, _ in plain:
        assert text.startswith("[")


def test_there_is_room_for_drafts_where_they_are_wanted_and_the_model_can_take_them_back(tmp_path):
    recurrent = random_model(tmp_path, "qwen35")
    for path, speculate, wanted in [
        (smollm2(), "off", 0),
        (smollm2(), "auto", 0),  # its heads are narrow, and scores are faster
        (smollm2(), "on", 7),
        (recurrent, "auto", 0),
        (recurrent, "on", 3),
    ]:
        backend = load_llama(str(path), options(speculate), lambda: None)
        assert backend.draft_tokens == wanted
        assert backend.rows == 2 + wanted
        backend.close()


def test_what_taking_back_takes_is_on_the_account(tmp_path):
    state = []
    for speculate in ("off", "on"):
        backend = load_llama(str(random_model(tmp_path, "qwen35")), options(speculate), lambda: None)
        state.append(backend.memory.state_bytes)
        backend.close()
    assert state[1] == pytest.approx(4 * state[0], rel=0.02)


def test_a_step_on_trial_is_priced_from_real_steps(model):
    beats = []
    cost = measure_step_cost(model, lambda: beats.append(1))
    assert 0 < cost.seconds(1) < cost.seconds(8) < 8 * cost.seconds(1) + 1
    assert len(beats) >= 2
    assert model.step([Run(0, [1], 0, output=True)])  # its sequence is empty again
    model.forget(0)


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
def test_whatever_is_taken_back_the_logits_go_on_as_if_it_had_never_been(tmp_path, arch):
    """Three sequences, alone and together, some of whose tokens on trial are wrong."""
    order = options(slots=3)
    backend = watched(random_model(tmp_path, arch), order)
    dice = np.random.default_rng(7)
    texts = [[int(token) for token in dice.integers(20, 400, 150)] for _ in range(3)]
    expected = []
    for text in texts:
        rows = (backend.step([Run(0, [token], n, output=True)])[0] for n, token in enumerate(text))
        expected.append([backend.logits(row) for row in rows])
        backend.forget(0)
    position = [20, 33, 41]
    for seq, length in enumerate(position):
        prefill(backend, seq, texts[seq][:length], chunk=64)
    while max(position) < 140:
        runs, right = [], []
        left = backend.draft_tokens
        for seq in range(3):
            if dice.random() < 0.3:
                continue
            drafted = int(dice.integers(0, left + 1))
            left -= drafted
            good = int(dice.integers(0, drafted + 1))
            at = position[seq]
            wrong = [int(token) for token in dice.integers(20, 400, drafted - good)]
            tokens = texts[seq][at : at + 1 + good] + wrong
            runs.append(Run(seq, tokens, at, output=True, every=True))
            right.append(good)
        rows = iter(backend.step(runs) if runs else [])
        for run, good in zip(runs, right, strict=True):
            mine = [next(rows) for _ in run.tokens]
            for offset in range(1 + good):
                gap = np.abs(backend.logits(mine[offset]) - expected[run.seq][run.start + offset]).max()
                assert gap < TOLERANCE, (run, offset)
            position[run.seq] += 1 + good
            assert backend.truncate(run.seq, position[run.seq])
    for seq in range(3):  # what was taken back is in no saved state either
        state = backend.save(seq)
        backend.forget(seq)
        backend.restore(seq, state, position[seq])
        (row,) = backend.step([Run(seq, [texts[seq][position[seq]]], position[seq], output=True)])
        assert np.abs(backend.logits(row) - expected[seq][position[seq]]).max() < TOLERANCE
    backend.close()


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    backend = watched(random_model(tmp_path_factory.mktemp("model"), "qwen35"), options(slots=3))
    yield backend
    backend.close()


@pytest.fixture
def tried(hybrid):
    """Forty tokens, the last logits after them, and sequence 0 with all but one and two more on trial."""
    text = [20 + (7 * n * n + 3 * n) % 380 for n in range(40)]
    expected = hybrid.logits(prefill(hybrid, 2, text, chunk=64))
    hybrid.forget(2)
    prefill(hybrid, 0, text[:-2], chunk=64)
    hybrid.step([Run(0, [text[-2], 5, 6], 38, output=True, every=True)])
    yield text, expected
    for seq in range(3):
        hybrid.forget(seq)


def test_recurrent_layers_do_not_take_back_what_an_earlier_step_evaluated(hybrid, tried):
    text, expected = tried
    state = hybrid.save(0)
    assert not hybrid.truncate(0, 38)  # no token of the step would be left
    hybrid.step([Run(0, [7], 41, output=True)])
    assert not hybrid.truncate(0, 41)
    assert not hybrid.truncate(0, 39)
    hybrid.restore(0, state, 41)
    assert not hybrid.truncate(0, 40)  # a saved state is that of its last token
    hybrid.forget(0)
    prefill(hybrid, 0, text[:-2], chunk=64)
    hybrid.step([Run(0, [text[-2], 5, 6], 38, output=True, every=True)])
    assert hybrid.truncate(0, 39)
    (row,) = hybrid.step([Run(0, text[-1:], 39, output=True)])
    assert np.abs(hybrid.logits(row) - expected).max() < TOLERANCE


def test_an_answer_that_moves_when_a_draft_was_taken_back_goes_on_without_it(hybrid, tried):
    text, expected = tried
    assert hybrid.truncate(0, 39)
    hybrid.move(0, 1)
    (row,) = hybrid.step([Run(1, text[-1:], 39, output=True)])
    assert np.abs(hybrid.logits(row) - expected).max() < TOLERANCE
    assert hybrid.step([Run(0, text[:3], 0, output=True)])  # its place is free


def test_a_hybrid_model_says_the_same_with_drafts(tmp_path):
    order = options(ubatch=32)
    backend = watched(random_model(tmp_path, "qwen35"), order)
    texts = ["abc abc abc abc", "one two three one two three", "hello"]
    plain, usual_steps = answers(backend, order, texts, at_once=True)
    drafted, steps = answers(backend, order, texts, at_once=True, cost=NOTHING)
    assert drafted == plain
    assert steps <= usual_steps
    backend.close()


def test_a_recurrent_model_whose_drafts_do_not_fit_the_budget_has_its_plain_state(tmp_path):
    order = Load(
        path=str(random_model(tmp_path, "qwen35")), backend="llama", options=options("on"), budget_bytes=1
    )
    backend = load_within_budget(order, lambda one: load_llama(one.path, one.options, lambda: None))
    plain = load_llama(order.path, options("off"), lambda: None)
    assert backend.draft_tokens == 0
    assert backend.memory.state_bytes == plain.memory.state_bytes
    backend.close()
    plain.close()
