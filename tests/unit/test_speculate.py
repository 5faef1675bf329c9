from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.speculate import (
    NOTHING,
    REST_TOKENS,
    SHORTEST,
    Drafter,
    StepCost,
    best_gain,
    lookup,
    step_cost,
    worth_trying,
)

FREE = StepCost(1.0, 0.01)  # memory-bound: tokens more in a step cost next to nothing
DEAR = StepCost(0.0, 1.0)  # compute-bound: each costs as much as the first
USUAL = StepCost(0.78, 0.22)


def said(tokens):
    return bytearray(array("i", tokens).tobytes())


@pytest.mark.parametrize(
    ("tokens", "most", "draft"),
    [
        ([1, 2, 3, 4, 5, 9, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 7, 1, 2, 8, 0, 1, 2], 3, [8, 0, 1]),  # the latest time counts
        ([5, 1, 2, 7, 9, 3, 2, 8, 5, 1, 2], 1, [7]),  # what was the same for longer counts more
        ([6, 6, 6, 6], 4, [6]),
        ([1, 2, 3], 4, []),
        ([1, 2, 3, 9, 3], 4, []),  # one token alone says little
        ([1], 4, []),
        ([], 4, []),
    ],
)
def test_what_followed_the_last_time_is_drafted(tokens, most, draft):
    assert lookup(said(tokens), most) == draft


def test_bytes_that_are_alike_between_two_tokens_are_no_tokens():
    # 0x00000100 and 0x00000001: the second lies, a byte off, in a row of the first.
    assert lookup(said([256, 256, 256, 256, 9, 1, 1]), 4) == []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8))
def test_a_draft_is_always_something_that_was_said_behind_the_same_tokens(tokens, most):
    draft = lookup(said(tokens), most)
    if draft:
        assert 1 <= len(draft) <= most
        wanted = [*tokens[-SHORTEST:], *draft]
        assert any(tokens[at : at + len(wanted)] == wanted for at in range(len(tokens)))


def test_costs_come_from_two_steps():
    cost = step_cost(0.010, 0.024, 8)
    assert cost.token_s == pytest.approx(0.002)
    assert cost.seconds(1) == pytest.approx(0.010)
    assert cost.seconds(8) == pytest.approx(0.024)
    assert step_cost(0.010, 0.009, 8) == StepCost(0.010, 0.0)  # a neighbour disturbed the first
    assert step_cost(0.010, 0.100, 8).fixed_s == 0.0


def test_the_best_a_draft_can_do_follows_from_the_costs():
    assert best_gain(DEAR, 7) == pytest.approx(1.0)
    assert best_gain(NOTHING, 7) == pytest.approx(8.0)
    assert 3.0 < best_gain(USUAL, 7) < 3.5


def test_long_drafts_where_they_are_cheap_and_come_true_none_where_they_cost_as_much_as_they_save():
    assert worth_trying(FREE, 0.9, 7) == 7
    assert worth_trying(USUAL, 0.9, 7) > worth_trying(USUAL, 0.5, 7) > 0
    assert worth_trying(USUAL, 0.1, 7) == 0
    assert worth_trying(DEAR, 1.0, 7) == 0
    assert worth_trying(NOTHING, 0.05, 7) >= 1


def test_drafts_pay_less_the_more_answers_share_a_step():
    tried = [worth_trying(USUAL, 0.6, 7, others) for others in range(12)]
    assert tried == sorted(tried, reverse=True)
    assert tried[0] > tried[-1]


def copying(length):
    """A prompt of different tokens, then its answer: the same again."""
    text = list(range(100, 100 + length))
    return text, text


def test_a_copied_answer_is_drafted_to_its_end():
    prompt, answer = copying(50)
    drafter = Drafter(USUAL)
    tokens, steps = [*prompt, *answer[:2]], 0
    while len(tokens) < 100:
        draft = drafter.draft(tokens, 7)
        right = answer[len(tokens) - 50 :]
        accepted = sum(one == other for one, other in zip(draft, right, strict=False))
        if draft:
            drafter.settle(len(draft), accepted)
        tokens = [*prompt, *answer][: len(tokens) + accepted + 1]
        steps += 1
    assert steps < 15


def test_a_request_whose_drafts_do_not_come_true_soon_has_none_and_later_a_few_again():
    drafter = Drafter(USUAL)
    tokens = [1, 2, 3] * 5
    drafted = 0
    while draft := drafter.draft(tokens, 7):
        drafter.settle(len(draft), 0)
        drafted += 1
    assert drafted <= 5
    for _ in range(5):
        waited = 1
        while not (draft := drafter.draft(tokens, 7)):
            waited += 1
        assert waited == REST_TOKENS
        while draft:
            drafter.settle(len(draft), 0)
            draft = drafter.draft(tokens, 7)


def test_a_draft_is_never_longer_than_there_is_room():
    drafter = Drafter(NOTHING)
    assert drafter.draft([1, 2, 3, 4, 5, 1, 2], 0) == []
    assert drafter.draft([1, 2, 3, 4, 5, 1, 2], 2) == [3, 4]
