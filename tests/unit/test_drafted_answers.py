"""The decode loop with drafts over the fake engine: the same answers in fewer steps."""

from __future__ import annotations

import random

import pytest

from edged.worker.backends.base import StepError
from edged.worker.forms.grammar import GrammarTooLarge
from edged.worker.speculate import NOTHING, StepCost
from tests.kit.fake_stage import Stage

DRAFTS = 7
TEXT = "the quick brown fox jumps over the lazy dog"


def stage(**fields):
    fields = {"cost": NOTHING, "draft_tokens": DRAFTS, **fields}
    return Stage(**fields)


def test_an_answer_that_copies_its_prompt_takes_a_fraction_of_the_steps():
    plain, drafted = Stage(), stage()
    assert drafted.ask(1, TEXT) == plain.ask(1, TEXT) == f"echo: {TEXT}"
    assert drafted.steps < plain.steps / 2
    assert drafted.end(1).usage == plain.end(1).usage


@pytest.mark.parametrize("max_tokens", [1, 2, 9, 10, 11, 12, 30])
def test_an_answer_is_as_long_as_it_may_be_and_no_longer(max_tokens):
    drafted = stage()
    drafted.ask(1, TEXT, max_tokens=max_tokens)
    assert drafted.text(1) == f"echo: {TEXT}"[:max_tokens]
    assert drafted.end(1).finish == "length"
    assert drafted.end(1).usage.completion_tokens == max_tokens


def test_an_answer_stops_in_the_middle_of_what_was_drafted():
    drafted = stage()
    assert drafted.ask(1, TEXT, stop=("fox",)) == "echo: the quick brown "
    assert drafted.end(1).finish == "stop"


def test_an_answer_that_fills_the_context_is_drafted_to_the_last_cell():
    drafted = stage(context=80)
    drafted.ask(1, "ab" * 30, max_tokens=200)
    plain = Stage(context=80)
    plain.ask(1, "ab" * 30, max_tokens=200)
    assert drafted.text(1) == plain.text(1)
    assert drafted.end(1).usage == plain.end(1).usage


def test_many_answers_at_once_share_the_room_for_drafts_and_each_is_right():
    dice = random.Random(3)
    drafted = stage(slots=4, ubatch=16)
    texts = {key: "".join(dice.choice("abc ") for _ in range(dice.randrange(5, 60))) for key in range(24)}
    for key, text in texts.items():
        drafted.start(key, text)
        drafted.turn(dice.randrange(4))
    drafted.play()
    assert {key: drafted.text(key) for key in texts} == {key: f"echo: {text}" for key, text in texts.items()}


def test_nothing_is_drafted_in_a_step_that_reads_a_prompt():
    drafted = stage(slots=2, ubatch=16)
    drafted.start(1, TEXT)
    drafted.turn(15)
    drafted.start(2, "x" * 100)
    before = len(drafted.text(1))
    drafted.turn(4)
    assert len(drafted.text(1)) == before + 4


def test_the_next_turn_of_a_drafted_conversation_goes_on_from_what_was_drawn():
    drafted = stage(cache_bytes=1 << 20, template="chat")
    answer = drafted.ask(1, TEXT)
    assert drafted.ask(2, "and then?", turns=(TEXT, answer)) == "echo: and then?"
    plain = Stage(cache_bytes=1 << 20, template="chat")
    plain.ask(1, TEXT)
    plain.ask(2, "and then?", turns=(TEXT, answer))
    assert drafted.cached(2) == plain.cached(2) > 0


def test_where_a_step_of_many_tokens_is_dear_nothing_is_tried():
    plain, drafted = Stage(), stage(cost=StepCost(0.0, 1.0))
    drafted.ask(1, TEXT)
    plain.ask(1, TEXT)
    assert drafted.steps == plain.steps
    assert drafted.evaluated == plain.evaluated


def test_drafts_that_hardly_ever_come_true_are_given_up():
    dice = random.Random(5)
    answer = "".join(dice.choice("abcde") for _ in range(400))
    script = {"answer": answer, "context": 512}
    plain, drafted = Stage(**script), stage(cost=StepCost(0.7, 0.3), **script)
    assert drafted.ask(1, "abcde", max_tokens=450) == plain.ask(1, "abcde", max_tokens=450) == answer
    wasted = drafted.evaluated - plain.evaluated
    assert 0 < wasted < len(answer) / 5


def test_an_engine_that_cannot_take_back_is_not_trusted_any_more():
    drafted = stage(answer="the quick brown cat")
    drafted.backend.truncate = lambda _seq, _length: False
    drafted.start(1, TEXT)
    with pytest.raises(StepError, match="taken back"):
        drafted.play()


def test_an_answer_that_fails_among_its_drafts_leaves_nothing_of_them_behind(caplog):
    drafted = stage(cache_bytes=1 << 20)
    drafted.start(1, TEXT)
    while not drafted.loop._slots.active or drafted.loop._slots.find(1).generated < 20:
        drafted.turn()
    output = drafted.loop._slots.find(1).output

    def too_large(token: int, row: int) -> list:
        raise GrammarTooLarge("the form of the answer can be read in too many ways at once")

    output.push = too_large
    drafted.play()
    assert drafted.end(1).code == "internal"
    assert drafted.ask(2, TEXT) == f"echo: {TEXT}"
    assert drafted.cached(2) == drafted.end(2).usage.prompt_tokens - 1
    assert not caplog.records
