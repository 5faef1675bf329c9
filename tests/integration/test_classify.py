"""Choices are scored as if each had been evaluated alone after the prompt, whatever way is taken."""

from __future__ import annotations

import asyncio
import math
import random
from typing import get_args

import msgspec
import pytest

from edged.api.events import Finished
from edged.api.requests import Message, Request, ScoringRule
from edged.ipc.messages import EngineOptions
from edged.worker.backends.fake import FakeBackend, Script
from edged.worker.choices import ChoiceTree
from edged.worker.scoring import Scoring
from tests.kit.decoding import Stage, prefill, watched
from tests.kit.model import gemma3, smollm2_tree
from tests.kit.random_model import random_model
from tests.kit.service import running_service

pytestmark = pytest.mark.model

SLOTS, UBATCH, CONTEXT = 4, 32, 256
OPTIONS = EngineOptions(context=CONTEXT, slots=SLOTS, ubatch=UBATCH, threads=1, repack=False)
# Between a choice evaluated alone and beside others: of a probability, and of a log-probability a token.
# Sums are made in another order there; gemma's logits move by a tenth, and by much more at unlikely tokens.
TOLERANCES = {"llama": 0.03, "qwen35": 0.03, "gemma3": 0.3}


@pytest.fixture(scope="module", params=["llama", "qwen35", "gemma3"])
def backend(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    loaded = watched(gemma3() if request.param == "gemma3" else random_model(folder, request.param), OPTIONS)
    loaded.tolerance = TOLERANCES[request.param]
    yield loaded
    loaded.close()


def learnt_alone(backend, prompt: list[int], sequences, rule: str) -> ChoiceTree:
    """A tree that knows all it wants to, each path evaluated in a fresh sequence, one token a step."""
    tree = ChoiceTree(sequences, rule)
    paths = {tokens[:length] for tokens in sequences for length in range(len(tokens))}
    for path in (path for path in paths if tree.asks(path)):
        row = prefill(backend, 0, prompt, chunk=UBATCH)
        for offset, token in enumerate(path):
            row = prefill(backend, 0, [token], len(prompt) + offset, chunk=UBATCH)
        tree.learn(path, backend.log_probabilities(row, tree.following(path)))
        backend.forget(0)
    return tree


def learnt(backend, prompt: list[int], tree: ChoiceTree, spare: list[int], budget: int) -> None:
    """The same through Scoring; the sequences are empty afterwards."""
    row = prefill(backend, 0, prompt, chunk=UBATCH)
    scoring = Scoring(backend, tree, 0, len(prompt), budget)
    taken = scoring.begin(row, spare)
    assert set(taken) <= set(spare)
    while not scoring.done:
        scoring.step()
    scoring.close()
    backend.forget(0)
    assert scoring.evaluated <= len({t[:n] for t in tree.sequences for n in range(1, len(t))})


@pytest.mark.parametrize("spare", [[], [2], [3, 1, 2]], ids=["alone", "one spare", "three spare"])
@pytest.mark.parametrize("rule", get_args(ScoringRule))
@pytest.mark.parametrize("seed", range(3))
def test_a_tree_gives_each_choice_the_score_it_has_when_evaluated_alone(backend, seed, rule, spare):
    dice = random.Random(seed)
    prompt = backend.tokenize("Reading" + dice.choice([" up", " down"]) * dice.randint(2, 20))
    words = [dice.randrange(300, 320) for _ in range(4)]
    sequences = {(words[0],), (words[0], words[1], words[2])}
    sequences |= {tuple(dice.choices(words, k=dice.randint(1, 6))) for _ in range(dice.randint(0, 5))}
    names = [str(tokens) for tokens in sequences]
    tree = ChoiceTree(sequences, rule)
    learnt(backend, prompt, tree, spare, budget=dice.choice([1, 3, UBATCH]))
    expected = learnt_alone(backend, prompt, sequences, rule).scores(names)
    for ours, theirs in zip(tree.scores(names), expected, strict=True):
        assert ours.tokens == theirs.tokens
        assert math.isclose(ours.logprob, theirs.logprob, abs_tol=backend.tolerance * (ours.tokens + 1))
        assert math.isclose(ours.probability, theirs.probability, abs_tol=backend.tolerance)


CHOICES = ("warm", "cold", "cold and wet", "colder", "no reading at all")


def ask(stage: Stage, key: int, text: str, choices: tuple[str, ...] = CHOICES, **fields) -> None:
    stage.start(key, op="classify", prompt=text, choices=choices, **fields)


def probabilities(stage: Stage, key: int) -> list[float]:
    return [score.probability for score in stage.end(key).scores]


def test_many_at_once_among_other_requests_get_the_scores_they_get_alone(backend):
    prompts = [f"Sensor {n} says {'up ' * (n * 7 % 40)}and it is" for n in range(9)]
    alone = {}
    for key, prompt in enumerate(prompts):
        stage = Stage(backend, OPTIONS)
        ask(stage, key, prompt)
        stage.play()
        alone[key] = probabilities(stage, key)
    together = Stage(backend, OPTIONS, cache_bytes=1 << 26)
    for key, prompt in enumerate(prompts):
        ask(together, key, prompt)
        together.start(100 + key, op="generate", prompt=prompt, max_tokens=5)
        if key == 3:
            together.cancel(3)
        together.turn()
    together.play()
    assert together.end(3).code == "cancelled"
    for key in alone.keys() - {3}:
        assert probabilities(together, key) == pytest.approx(alone[key], abs=backend.tolerance)
        assert together.text(key) in CHOICES
        assert together.end(100 + key).finish in {"stop", "length"}


def test_what_scoring_left_behind_does_not_show_in_the_next_answer(backend):
    prompt = "The pump is loud, the valve is open, the belt is new and the water in the tank is"
    fresh = Stage(backend, OPTIONS)
    fresh.start(1, op="generate", prompt=prompt, max_tokens=8)
    fresh.play()
    kept = Stage(backend, OPTIONS, cache_bytes=1 << 26)
    ask(kept, 1, prompt)
    kept.play()
    kept.start(2, op="generate", prompt=prompt, max_tokens=8)
    kept.play()
    ask(kept, 3, prompt)
    kept.play()
    assert kept.text(2) == fresh.text(1)
    assert probabilities(kept, 3) == pytest.approx(probabilities(kept, 1), abs=backend.tolerance)


def fake_stage(*, slots: int = 4, ubatch: int = 32, context: int = 64, **script) -> Stage:
    options = msgspec.structs.replace(OPTIONS, slots=slots, ubatch=ubatch, context=context)
    return Stage(FakeBackend(Script(**script), options), options)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_answer_that_the_model_would_give_has_nearly_all_the_probability(slots, recurrent):
    stage = fake_stage(slots=slots, recurrent=recurrent, answer="no reading at all")
    ask(stage, 1, "It is", scoring="sum")
    stage.play()
    end = stage.end(1)
    assert [score.choice for score in end.scores] == list(CHOICES)
    assert stage.text(1) == "no reading at all"
    assert end.scores[4].probability > 0.99
    assert math.isclose(sum(score.probability for score in end.scores), 1.0)
    assert end.scores[4].logprob == pytest.approx(17 * math.log(0.9))
    assert end.usage.prompt_tokens == len("It is")
    assert end.usage.completion_tokens > 0
    assert stage.backend._cells == {}


def test_a_choice_leaves_to_longer_ones_what_goes_on_as_they_do():
    stage = fake_stage(answer="cold and wet")
    ask(stage, 1, "It is", ("cold", "cold and wet"), scoring="sum")
    stage.play()
    shares = [math.exp(score.logprob) for score in stage.end(1).scores]
    assert shares == pytest.approx([0.9**4 - 0.9**12, 0.9**12])


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize("slots", [1, 3])
def test_a_request_that_is_cancelled_while_it_is_scored_frees_all_its_sequences(slots, steps):
    stage = fake_stage(slots=slots, ubatch=4, recurrent=True)
    ask(stage, 1, "xxxx", scoring="sum")
    stage.start(2, op="generate", prompt="yy", max_tokens=30)
    for _ in range(steps):
        stage.turn()
    stage.cancel(1)
    ask(stage, 3, "zzzz", ("a", "b"))
    stage.play()
    assert stage.end(1).code == "cancelled"
    assert stage.end(3).finish == "stop"
    assert stage.text(2) == "echo: yy"
    assert stage.backend._cells == {}


@pytest.mark.parametrize(
    ("choices", "rule"), [(("b", "a", "c"), "sum"), (("bad", "all good", "cannot say"), "constrained")]
)
def test_choices_that_one_token_tells_apart_are_scored_without_a_step_after_the_prompt(choices, rule):
    stage = fake_stage(answer=choices[0])
    ask(stage, 1, "x" * 20, choices, scoring=rule)
    stage.turn()
    assert stage.end(1).usage.completion_tokens == 0
    assert stage.text(1) == choices[0]
    assert [score.tokens for score in stage.end(1).scores] == [1, 1, 1]


def test_the_mean_does_not_favour_the_short_choice_and_the_sum_does():
    scores = {}
    for rule in ("sum", "mean"):
        stage = fake_stage(answer="cool")
        ask(stage, 1, "x", ("cool", "d"), scoring=rule)
        stage.play()
        scores[rule] = stage.end(1).scores
    assert [score.logprob for score in scores["sum"]] == [score.logprob for score in scores["mean"]]
    assert [score.tokens for score in scores["mean"]] == [4, 1]
    shares = {rule: scores[rule][0].probability / scores[rule][1].probability for rule in scores}
    assert shares["mean"] == pytest.approx(0.9 / (0.1 / 256))
    assert shares["sum"] == pytest.approx(0.9**4 / (0.1 / 256))


def test_a_prompt_that_leaves_no_room_for_its_choices_is_too_large():
    stage = fake_stage(context=64)
    # The last token of a choice is not evaluated.
    ask(stage, 1, "x" * 60, ("a" * 5, "b" * 5), scoring="sum")
    ask(stage, 2, "x" * 60, ("a" * 6, "b" * 5), scoring="sum")
    stage.play()
    assert stage.end(1).finish == "stop"
    assert stage.end(2).code == "too_large"


def classify(text: str, *choices: str, **fields) -> Request:
    fields = {"id": "c", "client": "test", "messages": (Message(role="user", content=text),), **fields}
    return Request(op="classify", choices=choices, **fields)


def test_a_box_says_how_likely_each_choice_is(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            events = await box.events(
                classify("What is the capital of France?", "Paris", "Berlin", "Paris and Rome")
            )
            last = events[-1]
            assert isinstance(last, Finished)
            assert [score.choice for score in last.scores] == ["Paris", "Berlin", "Paris and Rome"]
            assert sum(score.probability for score in last.scores) == pytest.approx(1.0)
            assert last.text == "Paris"
            assert last.scores[0].probability > last.scores[1].probability
            raw = classify("", "Berlin", "Rome", "Paris", messages=(), prompt="The capital of France is ")
            assert (await box.events(raw))[-1].text == "Paris"
            refused = (await box.events(classify("x", "a", "b", thinking=True)))[-1]
            assert refused.code == "bad_request"

    asyncio.run(asyncio.wait_for(scenario(), 120))
