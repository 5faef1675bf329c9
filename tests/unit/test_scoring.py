"""The tree of choices: what must be evaluated, once each, and what comes of it."""

from __future__ import annotations

import math
import tracemalloc
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.requests import MAX_CHOICE_CHARS, MAX_CHOICES, Message, Sampling, ScoringRule
from edged.ipc.messages import Done, Start
from edged.worker.choices import MOST_BLANKS, MOST_TOKENS, ChoiceTree, at_a_word, softmax
from tests.kit.fake_stage import Stage

SEQUENCES = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=2, max_size=12, unique=True
)
REST = {"max_tokens": 20, "sampling": Sampling()}
RULES = st.sampled_from(get_args(ScoringRule))


def logprob(path: tuple[int, ...], token: int) -> float:
    """A made-up model of six tokens."""
    weights = [(sum((n + 2) * t for n, t in enumerate(path)) * 7 + one * 13) % 29 / 4 for one in range(6)]
    return weights[token] - math.log(sum(map(math.exp, weights)))


def begun(tokens: tuple[int, ...]) -> float:
    return sum(logprob(tokens[:n], token) for n, token in enumerate(tokens))


def next_of(path: tuple[int, ...], sequences) -> set[int]:
    return {one[len(path)] for one in sequences if len(one) > len(path) and one[: len(path)] == path}


def longer_than(tokens: tuple[int, ...], sequences) -> list[tuple[int, ...]]:
    return [other for other in sequences if other != tokens and other[: len(tokens)] == tokens]


def read_all(tree: ChoiceTree) -> list[tuple[int, ...]]:
    """Learn the whole tree; the beginnings in the order in which they were evaluated."""
    seen: list[tuple[int, ...]] = []

    def learn(path):
        if tree.asks(path):
            tree.learn(path, [logprob(path, token) for token in tree.following(path)])

    def walk(path):
        for run in list(tree.branches(path)):
            for length in range(1, len(run) + 1):
                seen.append(path + run[:length])
                if tree.every or length == len(run):
                    learn(path + run[:length])
            walk(path + run)

    learn(())
    walk(())
    return seen


@given(SEQUENCES)
def test_a_choice_gets_the_sum_over_its_tokens(sequences):
    tree = ChoiceTree(sequences, "sum")
    read_all(tree)
    for tokens, likelihood in zip(sequences, tree.likelihoods(), strict=True):
        if not longer_than(tokens, sequences):
            assert math.isclose(likelihood, begun(tokens))


@given(SEQUENCES, RULES)
def test_each_path_is_evaluated_once_and_no_last_token_is(sequences, rule):
    tree = ChoiceTree(sequences, rule)
    seen = read_all(tree)
    assert len(seen) == len(set(seen))
    wanted = {tokens[:n] for tokens in sequences for n in range(1, len(tokens))}
    if rule == "constrained":  # up to where choices part, or one ends
        parting = {path for path in wanted if path in sequences or len(next_of(path, sequences)) > 1}
        wanted = {path[:n] for path in parting for n in range(1, len(path) + 1)}
    assert set(seen) == wanted
    assert tree.depth == max(map(len, seen), default=0)


@given(SEQUENCES)
def test_no_answer_counts_for_two_choices(sequences):
    """Those that begin with a choice are its own and those of the longer choices, and no others."""
    tree = ChoiceTree(sequences, "sum")
    read_all(tree)
    own = {tokens: math.exp(value) for tokens, value in zip(sequences, tree.likelihoods(), strict=True)}
    for tokens in sequences:
        whole = own[tokens] + sum(own[other] for other in longer_than(tokens, sequences))
        assert math.isclose(whole, math.exp(begun(tokens)), rel_tol=1e-5)


@given(SEQUENCES)
def test_held_to_the_choices_each_has_the_probability_of_being_generated(sequences):
    tree = ChoiceTree(sequences, "constrained")
    read_all(tree)
    for tokens, score in zip(sequences, tree.scores([str(one) for one in sequences]), strict=True):
        expected = 1.0
        for length in range(len(tokens) + 1):
            path = tokens[:length]
            allowed = {token: math.exp(logprob(path, token)) for token in next_of(path, sequences)}
            ending = 1 - sum(allowed.values()) if path in sequences else 0.0
            if allowed:
                taken = allowed[tokens[length]] if length < len(tokens) else ending
                expected *= taken / (sum(allowed.values()) + ending)
        assert math.isclose(score.probability, expected, rel_tol=1e-6)


@given(SEQUENCES, RULES)
def test_the_probabilities_of_a_request_sum_to_one(sequences, rule):
    tree = ChoiceTree(sequences, rule)
    read_all(tree)
    scores = tree.scores([str(one) for one in sequences])
    assert math.isclose(sum(score.probability for score in scores), 1.0)
    assert all(score.tokens >= 1 and score.logprob <= 0 for score in scores)


@pytest.mark.parametrize("rule", get_args(ScoringRule))
def test_choices_of_one_token_each_need_the_prompt_alone(rule):
    tree = ChoiceTree([(1,), (2,), (3,)], rule)
    assert (tree.width, tree.depth, list(tree.branches(()))) == (0, 0, [])


def test_choices_that_differ_at_once_need_the_prompt_alone_when_generation_would():
    sequences = [(1, 2, 3), (2, 3, 4), (3,)]
    assert ChoiceTree(sequences, "constrained").width == 0
    assert ChoiceTree(sequences, "sum").width == 2


def test_choices_that_part_late_share_their_beginning_in_one_run():
    sequences = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6, 7, 8)]
    tree = ChoiceTree(sequences, "sum")
    assert list(tree.branches(())) == [(1, 2)]
    assert sorted(tree.branches((1, 2))) == [(3,), (6, 7)]
    assert tree.width == 2
    tree = ChoiceTree(sequences, "constrained")
    assert list(tree.branches(())) == [(1, 2)]
    assert sorted(tree.branches((1, 2))) == [(3,)]


def test_shares_are_in_proportion_and_sum_to_one_however_small():
    shares = softmax([-1000.0, -1000.0 + math.log(3.0), -3000.0])
    assert math.isclose(sum(shares), 1.0)
    assert math.isclose(shares[1], 3 * shares[0])
    assert shares[2] == 0.0


def test_the_blank_at_the_end_of_a_raw_prompt_goes_to_the_choices():
    rest = {"key": 1, "op": "classify", **REST}
    moved = at_a_word(Start(prompt="It is \n", choices=("hot", "cold"), **rest))
    assert moved.prompt == "It is"
    assert moved.choices == (" \nhot", " \ncold")
    far = at_a_word(Start(prompt="It is" + " " * 1000, choices=("hot", "cold"), **rest))
    assert far.prompt + far.choices[0] == "It is" + " " * 1000 + "hot"
    assert len(far.choices[0]) == MOST_BLANKS + len("hot")
    chat = Start(messages=(Message(role="user", content="x "),), **rest)
    assert at_a_word(chat) is chat


def tree_bytes(length: int) -> int:
    """What building and asking a tree of one long and one short choice takes, at most."""
    tracemalloc.start()
    tree = ChoiceTree([tuple(range(length)), (1, 2)], "sum")
    assert tree.depth == length - 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_tree_takes_memory_in_proportion_to_its_tokens():
    assert tree_bytes(4000) < 4 * tree_bytes(2000)


def test_choices_that_would_be_read_for_minutes_are_refused_before_anything_is_made_of_them():
    box = Stage(context=4096)
    choices = tuple(f"{n:02}" + "ä" * (MAX_CHOICE_CHARS - 2) for n in range(MAX_CHOICES))
    box.inbox.put(Start(key=1, op="classify", prompt="x", choices=choices, scoring="sum", **REST))
    box.turn()
    end = box.end(1)
    assert end.code == "bad_request"
    assert str(MOST_TOKENS) in end.message
    assert box.steps == 0


def test_choices_that_are_all_as_good_as_impossible_have_shares_all_the_same():
    tree = ChoiceTree([(1,), (2,)], "constrained")
    tree.learn((), [-2000.0, -2000.0 - math.log(3)])
    assert [score.probability for score in tree.scores(["a", "b"])] == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("slots", [2, 3, 5])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("rule", get_args(ScoringRule))
def test_any_sequence_may_take_any_branch(rule, recurrent, slots):
    """One that has gone far must not leave what follows it to one that has no copy of it."""
    choices = ("open left", "open right", "close left", "close right now", "close right later")
    box = Stage(slots=slots, answer="close right now", recurrent=recurrent)
    box.inbox.put(Start(key=1, op="classify", prompt="It is", choices=choices, scoring=rule, **REST))
    box.play()
    assert box.end(1).finish == "stop"
    assert box.text(1) == "close right now"


@pytest.mark.parametrize("fields", [{"op": "generate"}, {"op": "generate", "choices": ("a", "b")}])
def test_a_raw_prompt_that_is_not_classified_keeps_the_blanks_at_its_end(fields):
    box = Stage(answer="a")
    prompt = "def f():\n    "
    box.inbox.put(Start(key=1, prompt=prompt, **fields, **REST))
    box.play()
    assert box.text(1) == "a"
    assert box.end(1).usage.prompt_tokens == len(prompt)


def ask(box: Stage, key: int, *choices: str, **fields: object) -> None:
    box.inbox.put(Start(key=key, op="classify", prompt="x", choices=choices, scoring="sum", **fields, **REST))


def ends(box: Stage) -> list[int]:
    return [message.key for message in box.said if isinstance(message, Done)]


def test_urgent_choices_are_scored_first_and_of_others_each_in_its_turn():
    box = Stage(slots=4, ubatch=4)
    ask(box, 1, "a" * 100, "b")
    ask(box, 2, "c" * 60, "d")
    ask(box, 3, "e" * 20, "f")
    ask(box, 4, "g" * 80, "h", priority=9)
    box.play()
    assert ends(box) == [4, 3, 2, 1]
