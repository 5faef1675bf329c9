"""The decode loop over the fake engine, step by step: who joins, who leaves, and that nobody notices."""

from __future__ import annotations

import random

import pytest

from edged.api.requests import Sampling
from edged.ipc.messages import Done, Start
from edged.worker.backends.fake import END
from edged.worker.refused import WHY_CHARS, Refused
from tests.kit.fake_stage import Stage

PREFIX = len("<user>")


def test_an_answer_is_the_echo_with_its_counts():
    stage = Stage()
    stage.start(1, "hé")
    stage.play()
    assert stage.text(1) == "echo: hé"
    done = stage.end(1)
    assert done.finish == "stop"
    assert done.usage.prompt_tokens == PREFIX + 3
    assert done.usage.completion_tokens == len("echo: hé".encode()) + 1


def test_a_request_joins_between_steps_and_the_others_do_not_wait_for_it():
    stage = Stage(ubatch=8)
    stage.start(1, "first")
    stage.turn(4)
    before = stage.text(1)
    stage.start(2, "x" * 100)
    stage.turn(5)
    assert len(stage.text(1)) == len(before) + 5
    assert not stage.text(2)
    stage.play()
    assert (stage.text(1), stage.text(2)) == ("echo: first", "echo: " + "x" * 100)


def test_more_requests_than_slots_wait_in_order_of_arrival():
    stage = Stage(slots=2)
    for key in range(6):
        stage.start(key, "same length")
    stage.play()
    ends = [message.key for message in stage.said if isinstance(message, Done)]
    assert ends == list(range(6))


@pytest.mark.parametrize("turns", [1, 3, 8], ids=["prefill", "late prefill", "decode"])
def test_cancelling_at_work_frees_the_slot_before_the_next_step(turns):
    stage = Stage(slots=1, ubatch=8)
    stage.start(1, "y" * 30)
    stage.turn(turns)
    spoken = stage.text(1)
    assert bool(spoken) == (turns == 8)
    stage.cancel(1)
    stage.start(2, "next")
    stage.turn()
    assert stage.end(1).code == "cancelled"
    assert stage.text(1) == spoken
    stage.play()
    assert stage.text(2) == "echo: next"


def test_cancelling_who_waits_for_a_slot_costs_the_others_nothing():
    stage = Stage(slots=1)
    for key in (1, 2, 3):
        stage.start(key, f"n{key}")
    stage.turn()
    stage.cancel(2)
    stage.play()
    assert stage.end(2).code == "cancelled"
    assert (stage.text(1), stage.text(2), stage.text(3)) == ("echo: n1", "", "echo: n3")


def test_cancelling_what_is_over_or_unknown_says_nothing():
    stage = Stage()
    stage.start(1, "a")
    stage.play()
    said = list(stage.said)
    stage.cancel(1)
    stage.cancel(99)
    stage.play()
    assert stage.said == said


def test_answers_move_up_so_that_the_engine_finds_them_side_by_side(monkeypatch):
    stage = Stage(slots=5, ubatch=256)
    sequences: list[list[int]] = []
    step = stage.backend.step

    def watched(runs):
        sequences.append(sorted(run.seq for run in runs))
        return step(runs)

    monkeypatch.setattr(stage.backend, "step", watched)
    for key in range(5):
        stage.start(key, "n" * (2 if key in {1, 3} else 40))
    stage.play()
    assert [0, 1, 2, 3, 4] in sequences
    first, _, last = sequences[-10]
    assert last - first == 2
    assert all(stage.text(key) == "echo: " + "n" * 40 for key in (0, 2, 4))


def test_an_answer_that_is_nearly_done_does_not_move(monkeypatch):
    stage = Stage(slots=3)
    moves: list[tuple[int, int]] = []
    monkeypatch.setattr(stage.backend, "move", lambda seq, to: moves.append((seq, to)))
    for key in range(3):
        stage.start(key, "n" * 20, max_tokens=4 if key == 1 else 9)
    stage.play()
    assert moves == []


def test_start_and_cancel_in_one_breath_end_once():
    stage = Stage()
    stage.start(1, "a")
    stage.cancel(1)
    stage.cancel(1)
    stage.play()
    assert stage.end(1).code == "cancelled"


def test_a_prompt_that_leaves_no_room_is_too_large_and_takes_no_slot():
    stage = Stage(context=64)
    for key, length in ((1, 64 - PREFIX), (2, 1000)):
        stage.start(key, "z" * length)
    stage.play()
    for key in (1, 2):
        assert stage.end(key).code == "too_large"
        assert "64" in stage.end(key).message
    assert stage.steps == 0


def test_a_prompt_one_below_the_context_gets_one_token():
    stage = Stage(context=64)
    stage.start(1, "z" * (63 - PREFIX))
    stage.play()
    assert stage.end(1).finish == "length"
    assert stage.end(1).usage.completion_tokens == 1
    assert stage.text(1) == "e"


def test_the_answer_is_clipped_to_what_the_context_still_holds():
    stage = Stage(context=64, answer="a" * 500)
    stage.start(1, "z" * (40 - PREFIX), max_tokens=400)
    stage.play()
    assert stage.end(1).finish == "length"
    assert len(stage.text(1)) == 64 - 40


def test_an_empty_raw_prompt_is_a_bad_request():
    stage = Stage()
    stage.inbox.put(Start(key=1, prompt="", max_tokens=5, sampling=Sampling()))
    stage.play()
    assert stage.end(1).code == "bad_request"


def test_max_tokens_inside_a_code_point_gives_a_replacement_character_not_a_break():
    stage = Stage(answer="é" * 10)
    stage.start(1, "x", max_tokens=3)
    stage.play()
    assert stage.text(1) == "é�"


def test_a_stop_string_ends_the_answer_and_no_step_more_is_taken():
    stage = Stage(answer="one two three four")
    stage.start(1, "x", stop=("three",))
    stage.play()
    assert stage.text(1) == "one two "
    assert stage.end(1).finish == "stop"
    assert stage.end(1).usage.completion_tokens == len("one two three")


def test_the_loop_is_busy_from_the_moment_a_request_is_taken_until_it_has_ended():
    stage = Stage()
    seen = []
    render = stage.backend.render
    stage.backend.render = lambda *args, **kwargs: seen.append(stage.busy[-1]) or render(*args, **kwargs)
    stage.start(1, "a", max_tokens=1)
    stage.loop.turn(wait=True)
    assert seen == [True]
    stage.turn()
    assert stage.busy[-1] is False


def test_the_oldest_long_prompt_gets_on_while_short_ones_keep_coming():
    stage = Stage(slots=4, ubatch=16, context=2048)
    stage.start(0, "L" * 400)
    for key in range(1, 400):
        stage.start(key, "s", max_tokens=1)
        stage.turn()
        if stage.text(0):
            break
    # Every fourth step is its own, of 16 tokens: 406 tokens at 4 a step.
    assert key <= 406 // 4 + 2


def tokens(stage: Stage) -> list[tuple[str, int]]:
    keys = sorted({message.key for message in stage.said})
    return [(stage.text(key), getattr(stage.end(key), "usage", None)) for key in keys]


@pytest.mark.parametrize("seed", range(40))
def test_any_mix_gives_each_the_answer_it_gets_alone(seed):
    dice = random.Random(seed)
    shape = {"slots": dice.randint(1, 6), "ubatch": dice.randint(8, 40), "context": 128}
    jobs = [
        ("".join(dice.choice("aé😀 ") for _ in range(dice.randint(0, 60))), dice.randint(1, 80))
        for _ in range(dice.randint(1, 12))
    ]
    stops = [dice.choice([(), ("é",), ("aa", " a")]) for _ in jobs]
    together = Stage(**shape)
    for key, (text, most) in enumerate(jobs):
        together.start(key, text, max_tokens=most, stop=stops[key])
        together.turn(dice.randint(0, 4))
    together.play()
    alone = []
    for key, (text, most) in enumerate(jobs):
        single = Stage(**shape)
        single.start(key, text, max_tokens=most, stop=stops[key])
        single.play()
        alone += tokens(single)
    assert tokens(together) == alone


@pytest.mark.parametrize("seed", range(40))
def test_any_interleaving_of_starts_and_cancels_ends_each_request_once(seed):
    dice = random.Random(seed)
    stage = Stage(slots=dice.randint(1, 4), ubatch=8, context=64)
    keys: list[int] = []
    for _ in range(120):
        move = dice.random()
        if move < 0.35:
            keys.append(len(keys))
            stage.start(keys[-1], "q" * dice.randint(0, 80), max_tokens=dice.randint(1, 40))
        elif move < 0.6 and keys:
            stage.cancel(dice.choice(keys))
        else:
            stage.turn()
    stage.play()
    for key in keys:
        stage.end(key)


def test_the_end_token_is_never_text():
    assert END > 255


@pytest.mark.parametrize("where", ["render", "piece"], ids=["reading", "admitting"])
def test_a_defect_met_before_an_answer_begins_ends_its_request_alone(where, monkeypatch, caplog):
    stage = Stage(slots=2)
    stage.start(1, "first")
    stage.turn(3)

    def broken(*_, **__):
        raise KeyError("what somebody wrote")

    with monkeypatch.context() as patch:
        patch.setattr(stage.backend, where, broken)
        stage.start(2, "second")
        stage.loop._receive(wait=False)
        stage.loop._let_in()
    stage.start(3, "third")
    stage.play()
    assert stage.end(2).code == "internal"
    assert "KeyError in test_decode_loop.py" in stage.end(2).message
    assert "somebody" not in f"{stage.end(2).message}{caplog.text}"
    assert (stage.text(1), stage.text(3)) == ("echo: first", "echo: third")


def test_why_a_request_is_refused_is_printable_and_short_whatever_a_template_says(monkeypatch):
    stage = Stage()

    def refuses(*_, **__):
        raise Refused("no \ud800\n" + "x" * 10_000)

    monkeypatch.setattr(stage.backend, "render", refuses)
    stage.start(1, "hi")
    stage.turn()
    assert stage.end(1).message.startswith("no ??xx")
    assert len(stage.end(1).message.encode()) <= WHY_CHARS
