"""The plans of known boards, word for word; `python -m tests.kit.golden_plans` writes them anew."""

from __future__ import annotations

import re

import pytest

from tests.kit.golden_plans import BOARDS, FOLDER, planned, shown


@pytest.mark.parametrize("board", BOARDS)
def test_the_plan_of_a_known_board_is_the_one_on_record(board):
    assert shown(board) == (FOLDER / f"{board}.txt").read_text(encoding="utf-8")


def test_nothing_is_on_record_that_no_test_looks_at():
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == sorted(BOARDS)


@pytest.mark.parametrize("board", BOARDS)
def test_the_choice_for_every_board_is_explained_in_a_sentence(board):
    choice = planned(board).choice
    assert choice is not None
    assert re.fullmatch(r"[A-Z].{20,}\.", choice.reason)
    assert choice.reason in " ".join((FOLDER / f"{board}.txt").read_text(encoding="utf-8").split())
