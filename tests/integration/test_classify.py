"""Choices are scored as if each had been evaluated alone after the prompt, whatever way is taken."""

from __future__ import annotations

import math
import random

import pytest

from edged.ipc.messages import EngineOptions
from edged.worker.scoring import ChoiceTree, Scoring
from tests.kit.decoding import prefill, watched
from tests.kit.model import gemma3
from tests.kit.random_model import random_model

pytestmark = pytest.mark.model

SLOTS, UBATCH, CONTEXT = 4, 32, 256
OPTIONS = EngineOptions(context=CONTEXT, slots=SLOTS, ubatch=UBATCH, threads=1, repack=False)
# Between a choice evaluated alone and one that was evaluated beside others, in nats.
TOLERANCE = 0.03


@pytest.fixture(scope="module", params=["llama", "qwen35", "gemma3"])
def backend(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    loaded = watched(gemma3() if request.param == "gemma3" else random_model(folder, request.param), OPTIONS)
    yield loaded
    loaded.close()


def alone(backend, prompt: list[int], tokens: tuple[int, ...]) -> float:
    """The log-probability of ``tokens`` after ``prompt``, one token a step in a fresh sequence."""
    row = prefill(backend, 0, prompt, chunk=UBATCH)
    total = 0.0
    for offset, token in enumerate(tokens):
        total += backend.log_probabilities(row, [token])[0]
        if offset + 1 < len(tokens):
            row = prefill(backend, 0, [token], len(prompt) + offset, chunk=UBATCH)
    backend.forget(0)
    return total


def scored(
    backend, prompt: list[int], tree: ChoiceTree, spare: list[int], budget: int = UBATCH
) -> list[float]:
    """The same for all choices of a tree, through Scoring; the sequences are empty afterwards."""
    row = prefill(backend, 0, prompt, chunk=UBATCH)
    scoring = Scoring(backend, tree, 0, len(prompt), budget)
    taken = scoring.begin(row, spare)
    assert set(taken) <= set(spare)
    while not scoring.done:
        scoring.step()
    scoring.close()
    backend.forget(0)
    assert scoring.evaluated == len({t[:n] for t in tree.sequences for n in range(1, len(t))})
    return [tree.likelihood(index) for index in range(len(tree.sequences))]


@pytest.mark.parametrize("spare", [[], [2], [3, 1, 2]], ids=["alone", "one spare", "three spare"])
@pytest.mark.parametrize("seed", range(4))
def test_a_tree_gives_each_choice_the_likelihood_it_has_alone(backend, seed, spare):
    dice = random.Random(seed)
    prompt = backend.tokenize(
        "Reading " + " ".join(dice.choice("abcdef") for _ in range(dice.randint(2, 30)))
    )
    words = [dice.randrange(300, 320) for _ in range(4)]
    choices = {
        tuple(dice.choice(words) for _ in range(dice.randint(1, 6))) for _ in range(dice.randint(2, 7))
    }
    if len(choices) < 2:
        choices |= {(words[0],), (words[0], words[1])}
    tree = ChoiceTree(sorted(choices), backend.turn_end)
    together = scored(backend, prompt, tree, spare, budget=dice.choice([1, 3, UBATCH]))
    for tokens, likelihood in zip(tree.sequences, together, strict=True):
        assert math.isclose(likelihood, alone(backend, prompt, tokens), abs_tol=TOLERANCE * len(tokens))
