"""A circle is noticed soon after it has closed often enough, and nothing else is taken for one."""

from __future__ import annotations

import random

import pytest

from edged.worker.repetition import CHECK_EVERY_TOKENS, MAX_PERIOD_TOKENS, MIN_TOKENS, MIN_TURNS, Circle


def noticed_at(tokens) -> int | None:
    circle = Circle()
    return next((number for number, token in enumerate(tokens, 1) if circle.push(token)), None)


@pytest.mark.parametrize("period", [1, 2, 3, 7, 50, MAX_PERIOD_TOKENS])
@pytest.mark.parametrize("before", [0, 5, 1000])
def test_a_circle_is_noticed_within_a_check_of_its_last_needed_turn(period, before):
    dice = random.Random(1)
    tokens = [dice.randrange(10**6) for _ in range(before)]
    turn = [dice.randrange(10**6) for _ in range(period)]
    needed = before + max(MIN_TOKENS, period * MIN_TURNS)
    found = noticed_at(tokens + turn * (needed // period + 100))
    assert found is not None
    assert needed <= found <= needed + CHECK_EVERY_TOKENS


def test_a_list_that_counts_up_is_no_circle():
    line = [1, 2, 3, 4, 5]
    assert noticed_at(token for number in range(1000) for token in (*line, 100 + number)) is None


def test_a_ruler_of_dashes_in_a_text_is_no_circle():
    dice = random.Random(2)
    text = [dice.randrange(1000) for _ in range(300)]
    assert noticed_at(text + [7] * (MIN_TOKENS - 10) + text) is None


def test_a_circle_longer_than_a_paragraph_is_left_to_max_tokens():
    turn = list(range(MAX_PERIOD_TOKENS + 1))
    assert noticed_at(turn * 20) is None


def test_memory_is_bounded():
    circle = Circle()
    for token in range(10_000):
        circle.push(token)
    assert len(circle._tokens) <= MAX_PERIOD_TOKENS * MIN_TURNS + CHECK_EVERY_TOKENS
