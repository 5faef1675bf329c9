"""The tree of choices: what must be evaluated, once each, and what comes of it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edged.api.requests import Message, Sampling
from edged.ipc.messages import Start
from edged.worker.scoring import ChoiceTree, at_a_word, softmax

SEQUENCES = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=2, max_size=12, unique=True
)


def logprob(path: tuple[int, ...], token: int) -> float:
    """A made-up model of six tokens."""
    weights = [(sum((n + 2) * t for n, t in enumerate(path)) * 7 + one * 13) % 29 / 4 for one in range(6)]
    return weights[token] - math.log(sum(map(math.exp, weights)))


def begun(tokens: tuple[int, ...]) -> float:
    return sum(logprob(tokens[:n], token) for n, token in enumerate(tokens))


def longer_than(tokens: tuple[int, ...], sequences) -> list[tuple[int, ...]]:
    return [other for other in sequences if other != tokens and other[: len(tokens)] == tokens]


def read_all(tree: ChoiceTree) -> list[tuple[int, ...]]:
    """Learn the whole tree; the beginnings in the order in which they were evaluated."""
    seen: list[tuple[int, ...]] = []

    def learn(path):
        seen.append(path)
        tree.learn(path, [logprob(path, token) for token in tree.following(path)])

    def walk(path):
        for run in list(tree.branches(path)):
            for length in range(1, len(run) + 1):
                learn(path + run[:length])
            walk(path + run)

    learn(())
    walk(())
    return seen


@given(SEQUENCES)
def test_a_choice_gets_the_sum_over_its_tokens(sequences):
    tree = ChoiceTree(sequences)
    read_all(tree)
    for tokens, likelihood in zip(sequences, tree.likelihoods(), strict=True):
        if not longer_than(tokens, sequences):
            assert math.isclose(likelihood, begun(tokens))


@given(SEQUENCES)
def test_each_beginning_is_evaluated_once_and_no_last_token_is(sequences):
    tree = ChoiceTree(sequences)
    seen = read_all(tree)
    assert len(seen) == len(set(seen))
    assert set(seen) == {tokens[:n] for tokens in tree.sequences for n in range(len(tokens))}
    assert tree.depth == max(map(len, seen))


@given(SEQUENCES)
def test_no_answer_counts_for_two_choices(sequences):
    """Those that begin with a choice are its own and those of the longer choices, and no others."""
    tree = ChoiceTree(sequences)
    read_all(tree)
    own = {tokens: math.exp(value) for tokens, value in zip(sequences, tree.likelihoods(), strict=True)}
    for tokens in sequences:
        whole = own[tokens] + sum(own[other] for other in longer_than(tokens, sequences))
        assert math.isclose(whole, math.exp(begun(tokens)), rel_tol=1e-5)


def test_choices_of_one_token_each_need_the_prompt_alone():
    tree = ChoiceTree([(1,), (2,), (3,)])
    assert tree.width == 0
    assert tree.depth == 0
    assert list(tree.branches(())) == []


def test_choices_that_part_late_share_their_beginning_in_one_run():
    tree = ChoiceTree([(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6, 7, 8)])
    assert list(tree.branches(())) == [(1, 2)]
    assert sorted(tree.branches((1, 2))) == [(3,), (6, 7)]
    assert tree.width == 2


def test_shares_are_in_proportion_and_sum_to_one_however_small():
    shares = softmax([-1000.0, -1000.0 + math.log(3.0), -3000.0])
    assert math.isclose(sum(shares), 1.0)
    assert math.isclose(shares[1], 3 * shares[0])
    assert shares[2] == 0.0


def test_the_blank_at_the_end_of_a_raw_prompt_goes_to_the_choices():
    rest = {"key": 1, "op": "classify", "max_tokens": 1, "sampling": Sampling()}
    moved = at_a_word(Start(prompt="It is \n", choices=("hot", "cold"), **rest))
    assert moved.prompt == "It is"
    assert moved.choices == (" \nhot", " \ncold")
    chat = Start(messages=(Message(role="user", content="x "),), **rest)
    assert at_a_word(chat) is chat
