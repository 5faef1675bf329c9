"""Words of an answer that come faster than anybody reads leave together, and none waits for a long step."""

from __future__ import annotations

from types import SimpleNamespace

from edged.api.events import CallPiece
from edged.ipc.messages import Done, Token
from edged.worker.speculate import NOTHING
from edged.worker.telling import Telling
from tests.kit.fake_stage import Stage


def told(stage: Stage, key: int = 1) -> list[str]:
    return [message.text for message in stage.said if isinstance(message, Token) and message.key == key]


def begun(**script) -> Stage:
    """An answer of "0123456789" whose first token has been told, on a clock that stands still."""
    stage = Stage(answer="0123456789", **script)
    stage.start(1, "question", pace_s=0.025)
    while not told(stage):
        stage.turn()
    assert told(stage) == ["0"]
    return stage


def test_the_first_token_leaves_at_once_and_the_next_ones_together():
    stage = begun()
    stage.turn(2)
    assert told(stage) == ["0"]
    stage.now += 0.03
    stage.turn()
    assert told(stage) == ["0", "123"]


def test_tokens_that_come_slower_than_the_pace_leave_one_by_one():
    stage = begun()
    for _ in range(3):
        stage.now += 0.03
        stage.turn()
    assert told(stage) == ["0", "1", "2", "3"]


def test_each_message_tells_how_many_tokens_it_stands_for():
    stage = begun()
    stage.play()
    tokens = [message.tokens for message in stage.said if isinstance(message, Token)]
    assert tokens == [1, 10]  # the last one is the end, which has no text
    assert stage.end(1).usage.completion_tokens == 11


def test_the_rest_comes_before_the_end():
    stage = begun()
    stage.play()
    assert told(stage) == ["0", "123456789"]
    assert isinstance(stage.said[-1], Done)


def test_a_cancelled_answer_has_told_what_was_certain():
    stage = begun()
    stage.turn(3)
    stage.cancel(1)
    stage.turn()
    assert told(stage) == ["0", "123"]
    assert stage.end(1).code == "cancelled"


def test_a_paused_answer_holds_nothing_back():
    stage = begun()
    stage.turn(2)
    stage.pause(1)
    stage.turn()
    assert told(stage) == ["0", "12"]


def test_nothing_is_held_back_over_a_step_that_reads_a_prompt():
    stage = begun(ubatch=16)
    stage.turn(2)
    stage.start(2, "x" * 100)
    step = stage.backend.step

    def watched(runs):
        assert told(stage) == ["0", "12"]  # before the engine is busy with it
        return step(runs)

    stage.backend.step = watched
    stage.turn()


def test_without_a_pace_every_token_leaves_by_itself():
    stage = Stage(answer="0123")
    stage.start(1, "question")
    stage.play()
    assert told(stage) == list("0123")


def test_what_one_step_says_of_several_answers_is_handed_over_in_one_go():
    stage = Stage(answer="0123456789")
    writes: list[int] = []
    stage.loop._telling._send = lambda *messages: writes.append(len(messages))
    for key in range(1, 5):
        stage.start(key, "question")
    stage.turn(12)
    assert max(writes) >= 4


def test_text_behind_a_call_is_a_message_of_its_own_since_text_is_read_first():
    said: list[Token] = []
    telling = Telling(lambda *messages: said.extend(messages), lambda: 0.0)
    slot = SimpleNamespace(untold=[], untold_tokens=0, due=1.0, order=SimpleNamespace(pace_s=1.0))
    pieces = [
        Token(key=1, text="Look: "),
        Token(key=1, tool_calls=(CallPiece(index=0, id="a", name="look", arguments='{"a":'),)),
        Token(key=1, tool_calls=(CallPiece(index=0, arguments=" 1}"),)),
        Token(key=1, text="Done"),
        Token(key=1, text="."),
        Token(key=1, text="Hm", channel="reasoning"),
    ]
    for piece in pieces:
        telling.say(slot, [piece])
    telling.finish(slot)
    telling.deliver()
    assert [(one.text, one.channel, len(one.tool_calls)) for one in said] == [
        ("Look: ", "text", 2),
        ("Done.", "text", 0),
        ("Hm", "reasoning", 0),
    ]
    assert [one.tokens for one in said] == [6, 0, 0]


def test_what_one_step_has_drawn_is_told_together_and_at_once():
    stage = Stage(cost=NOTHING, draft_tokens=7)
    stage.start(1, "the quick brown fox jumps", pace_s=0.025)
    while not stage.ended(1):
        stage.now += 0.03
        stage.turn()
        slot = stage.loop._slots.find(1)
        assert slot is None or not slot.untold
    assert max(message.tokens for message in stage.said if isinstance(message, Token)) > 4


def test_words_do_not_wait_for_the_scoring_of_choices():
    stage = Stage(answer="0123456789" * 9, slots=2)
    stage.start(1, "question", pace_s=0.025)
    stage.turn(3)
    stage.start(2, "x", op="classify", choices=("north and west", "north and east"), scoring="sum")
    step, scored = stage.backend.step, []

    def watched(runs):
        if any(run.every for run in runs):
            scored.append(runs)
            assert len("".join(told(stage))) == stage.loop._slots.find(1).generated
        return step(runs)

    stage.backend.step = watched
    stage.play()
    assert scored
