"""Slots that share what they read: who waits for whom, what is kept, and that no answer changes by it."""

from __future__ import annotations

import random
import weakref

import pytest

from edged.ipc.messages import Done
from edged.worker.sharing import LEAST_TOKENS
from tests.kit.fake_stage import Stage

CACHE = 1 << 20
SYSTEM = "You watch a pump. Say in one word how it does, or which part of it needs a person." * 2
HEAD = len(f"<system>{SYSTEM}<user>")  # what the prompts of this system message have in common
KINDS = [
    pytest.param({}, id="attention"),
    pytest.param({"recurrent": True}, id="recurrent"),
    pytest.param({"recurrent": True, "template": "chat"}, id="recurrent, answers kept"),
    pytest.param({"recurrent": True, "template": "thinking"}, id="recurrent, thoughts dropped"),
]


def stage(**fields) -> Stage:
    return Stage(context=4096, cache_bytes=fields.pop("cache_bytes", CACHE), **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_request_does_not_read_the_system_message_again(kind):
    box = stage(**kind)
    assert box.ask(1, "first", system=SYSTEM) == "echo: first"
    assert box.ask(2, "other", system=SYSTEM) == "echo: other"
    assert (box.cached(1), box.cached(2)) == (0, pytest.approx(HEAD, abs=4))


def test_a_request_that_comes_again_is_read_but_for_its_last_token():
    box = stage()
    for key in range(2):
        box.ask(key, "the same question, to the last word, again", system=SYSTEM)
    assert box.cached(1) == box.end(1).usage.prompt_tokens - 1


@pytest.mark.parametrize("kind", KINDS)
def test_requests_at_once_read_what_they_share_once(kind):
    box = stage(slots=4, **kind)
    for key in range(4):
        box.start(key, f"n{key}", system=SYSTEM, max_tokens=1)
    box.play()
    alone = stage(slots=4, **kind)
    alone.ask(0, "n0", system=SYSTEM, max_tokens=1)
    assert box.evaluated <= alone.evaluated + 3 * (LEAST_TOKENS + 8)
    assert [box.text(key) for key in range(4)] == ["e"] * 4


def test_what_waits_takes_no_slot():
    box = stage(slots=2, ubatch=16)
    box.start(1, "leads", system=SYSTEM)
    box.start(2, "follows", system=SYSTEM)
    box.start(3, "has nothing to do with it", max_tokens=3)
    box.turn(5)
    assert box.ended(3)
    assert not box.text(1)
    box.play()
    assert box.cached(2) == HEAD


def test_what_has_nothing_to_gain_does_not_wait():
    box = stage(slots=4, ubatch=64)
    short = "s" * (LEAST_TOKENS - 10)
    box.start(1, short + "a" * 200)
    box.start(2, short + "b" * 200)
    box.turn()
    assert len(box.loop._slots.active) == 2


def test_without_a_cache_nobody_waits_and_nothing_is_kept():
    box = stage(slots=4, ubatch=64, cache_bytes=0)
    for key in range(4):
        box.start(key, "n", system=SYSTEM)
    box.turn()
    assert len(box.loop._slots.active) == 4
    box.play()
    assert [box.cached(key) for key in range(4)] == [0] * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", range(1, 14))
def test_when_the_leader_goes_away_the_next_one_leads(kind, turns):
    box = stage(slots=4, **kind)
    for key in range(4):
        box.start(key, f"n{key}", system=SYSTEM)
    box.turn(turns)
    box.cancel(0)
    box.play()
    assert [box.text(key) for key in (1, 2, 3)] == ["echo: n1", "echo: n2", "echo: n3"]
    assert [box.cached(key) > HEAD - LEAST_TOKENS for key in (2, 3)] == [True, True]


def test_what_a_cancelled_request_has_read_helps_the_next_try():
    box = stage(ubatch=16)
    box.start(1, "z" * 500)
    box.turn(10)
    box.cancel(1)
    box.ask(2, "z" * 500)
    assert box.cached(2) == 10 * 16


def test_the_beginning_that_two_prompts_share_is_learned_for_the_third():
    box = stage(recurrent=True)
    command = "Classify the following reading as normal, odd or alarming; say nothing else. Reading: "
    for key in range(3):
        box.ask(key, f"{command}{key} bar")
    assert [box.cached(key) for key in range(3)] == [0, 0, len("<user>" + command)]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_turns_of_a_conversation_read_only_what_is_new(kind):
    box = stage(slots=1, ubatch=64, **kind)
    turns: tuple[str, ...] = ()
    read = []
    for number in range(10):
        question = f"question {number}, with some more words so that it matters; " + "w" * 40
        before = box.evaluated
        answer = box.ask(number, question, system=SYSTEM, turns=turns)
        assert answer == f"echo: {question}"
        usage = box.end(number).usage
        read.append(usage.prompt_tokens - usage.cached_tokens)
        assert box.evaluated - before == read[-1] + usage.completion_tokens - 1
        turns += (question, answer)
    # The answer before it and the question, each with its marks; never what came before them.
    new = len(f"<assistant>{answer}</><user>{question}</><assistant><think></think>")
    assert max(read[1:]) <= new
    assert box.end(9).usage.prompt_tokens > 4 * new


def test_a_conversation_takes_the_room_of_its_last_turns_only_when_others_need_it():
    box = stage(recurrent=True, template="chat", cache_bytes=12_000)
    box.ask(0, "somebody else", system=SYSTEM)
    box.ask(1, "somebody else", system=SYSTEM)
    turns: tuple[str, ...] = ()
    for number in range(2, 8):
        question = f"question {number} " + "w" * 40
        turns += (question, box.ask(number, question, turns=turns))
        assert number == 2 or box.cached(number) > 60
    box.ask(8, "a third", system=SYSTEM)
    assert box.cached(8) >= HEAD - 1


@pytest.mark.parametrize("cache_bytes", [1, 200, 700])
def test_a_cache_that_is_too_small_costs_no_answer(cache_bytes):
    box = stage(cache_bytes=cache_bytes)
    for key in range(6):
        box.start(key, f"n{key}", system=SYSTEM)
    box.play()
    assert [box.text(key) for key in range(6)] == [f"echo: n{key}" for key in range(6)]
    assert box.loop._sharing.store.held_bytes <= cache_bytes


def test_shrinking_lets_go_at_once_and_no_request_fails():
    box = stage(slots=2)
    box.ask(0, "first", system=SYSTEM)
    box.start(1, "second", system=SYSTEM)
    box.start(2, "x" * 150, system=SYSTEM)
    box.start(3, "y" * 150, system=SYSTEM)
    box.turn(2)
    box.shrink(0)
    box.turn()
    assert box.loop._sharing.store.held_bytes == 0
    box.play()
    assert [box.text(key) for key in (1, 2)] == ["echo: second", "echo: " + "x" * 150]
    assert box.loop._sharing.store.held_bytes == 0
    box.shrink(CACHE)
    for key in (4, 5):
        box.ask(key, f"n{key}", system=SYSTEM)
    assert box.cached(5) >= HEAD


def test_a_state_that_the_engine_refuses_is_dropped_and_the_prompt_read():
    box = stage()
    box.ask(0, "first", system=SYSTEM)
    for prefix in box.loop._sharing.store:
        prefix.state[:4] = b"\0\0\0\0"
    assert box.ask(1, "other", system=SYSTEM) == "echo: other"
    assert box.cached(1) == 0
    box.ask(2, "third", system=SYSTEM)
    assert box.cached(2) == HEAD


def test_an_urgent_request_is_admitted_first():
    box = stage(slots=1)
    box.start(0, "at work")
    box.turn()
    for key, priority in ((1, 5), (2, 9), (3, 0), (4, 9), (5, 5)):
        box.start(key, f"n{key}", priority=priority)
    box.play()
    ends = [message.key for message in box.said if isinstance(message, Done)]
    assert ends == [0, 2, 4, 1, 5, 3]


def test_an_urgent_prompt_is_read_before_others_that_have_begun():
    box = stage(slots=2, ubatch=16)
    box.start(1, "a" * 150, max_tokens=1, priority=0)
    box.turn(2)
    box.start(2, "b" * 160, max_tokens=1, priority=9)
    box.play()
    ends = [message.key for message in box.said if isinstance(message, Done)]
    assert ends == [2, 1]


def test_what_an_urgent_request_waits_for_is_as_urgent():
    box = stage(slots=3, ubatch=16)
    box.start(1, "background", system=SYSTEM, max_tokens=1, priority=0)
    box.start(2, "c" * 120, max_tokens=1, priority=5)
    box.turn()
    box.start(3, "urgent", system=SYSTEM, max_tokens=1, priority=9)
    box.play()
    ends = [message.key for message in box.said if isinstance(message, Done)]
    assert ends[-1] == 2  # what came first, and is no more urgent by itself, went before it, too
    assert box.cached(3) == HEAD


def random_fields(dice: random.Random) -> dict:
    return {
        "system": dice.choice(["", SYSTEM, SYSTEM[:90], "x" * 40]),
        "turns": tuple(dice.choice(("hello", "q" * 70)) for _ in range(2 * dice.randint(0, 2))),
        "priority": dice.randint(0, 9),
        "max_tokens": dice.randint(1, 40),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_any_mix_gives_each_the_answer_it_gets_alone(seed, kind):
    dice = random.Random(seed)
    slots, ubatch = dice.randint(1, 5), dice.randint(8, 60)
    cache = dice.choice([0, 300, 3000, 20_000, CACHE])
    box = stage(slots=slots, ubatch=ubatch, cache_bytes=cache, **kind)
    jobs = {key: (dice.choice(["a", "b"]) * dice.randint(0, 60), random_fields(dice)) for key in range(25)}
    gone = set()
    for key, (text, fields) in jobs.items():
        box.start(key, text, **fields)
        if dice.random() < 0.2:
            gone.add(key)
            box.turn(dice.randint(0, 3))
            box.cancel(key)
        if dice.random() < 0.1:
            box.shrink(dice.choice([0, cache]))
        box.turn(dice.randint(0, 6))
        assert box.loop._sharing.store.held_bytes <= cache
    box.play()
    alone = stage(slots=1, ubatch=ubatch, cache_bytes=0, **kind)
    for key, (text, fields) in jobs.items():
        box.end(key)
        if key not in gone:
            assert alone.ask(key, text, **fields) == box.text(key)
            assert alone.end(key).usage.prompt_tokens == box.end(key).usage.prompt_tokens


LONG = " ".join(str(number * number) for number in range(60))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_bytes", [0, CACHE])
def test_a_paused_answer_says_no_more_and_goes_on_where_it_was(kind, cache_bytes):
    box = stage(slots=2, cache_bytes=cache_bytes, **kind)
    box.start(1, LONG, max_tokens=500)
    box.turn(40)
    box.pause(1)
    box.turn()
    said = box.text(1)
    assert said
    box.start(2, "the other one")
    box.turn(60)
    assert (box.text(1), box.text(2)) == (said, "echo: the other one")
    assert box.loop.idle
    assert box.busy[-1] is False
    box.resume(1)
    box.play()
    assert box.text(1) == "echo: " + LONG


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_bytes", [0, 900, CACHE])
def test_a_paused_answer_lends_its_slot_and_goes_on_when_it_has_one_again(kind, cache_bytes):
    box = stage(slots=1, cache_bytes=cache_bytes, **kind)
    box.start(1, LONG, max_tokens=500)
    box.turn(60)
    box.pause(1)
    for key in (2, 3):
        assert box.ask(key, f"n{key}") == f"echo: n{key}"
    said = box.text(1)
    assert box.loop.idle
    box.start(4, "at work")
    box.turn(2)
    box.resume(1)
    box.turn()
    assert box.text(1) == said
    box.play()
    assert (box.text(1), box.text(4)) == ("echo: " + LONG, "echo: at work")
    assert box.end(1).usage.completion_tokens == len("echo: " + LONG) + 1


def test_what_a_lent_slot_had_evaluated_is_not_evaluated_again():
    box = stage(slots=1, recurrent=True)
    box.start(1, LONG, max_tokens=500)
    box.turn(60)
    box.pause(1)
    box.ask(2, "other")
    before, said = box.evaluated, len(box.text(1))
    box.resume(1)
    box.play()
    assert box.evaluated - before == len("echo: " + LONG) + 1 - said


@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_paused_answer_can_end(parked, end):
    box = stage(slots=1)
    box.start(1, LONG, max_tokens=500, ttl_s=10.0)
    box.turn(60)
    box.pause(1)
    box.turn()
    if parked:
        box.ask(2, "other")
    if end == "cancelled":
        box.cancel(1)
    box.now = 10.0
    box.play()
    assert box.end(1).code == end
    assert box.ask(3, "next") == "echo: next"


def test_time_runs_out_in_every_state_and_costs_the_others_nothing():
    box = stage(slots=2)
    box.start(1, LONG, max_tokens=500, ttl_s=5.0)  # answers
    box.turn(40)
    box.start(2, "q" * 300, ttl_s=5.0)  # reads
    box.turn(2)
    box.start(3, "waits for a slot", ttl_s=5.0)
    box.start(4, "has time")
    box.turn()
    box.now = 4.9
    box.turn()
    assert not any(box.ended(key) for key in range(1, 5))
    box.now = 5.0
    box.turn()
    assert [box.end(key).code for key in (1, 2, 3)] == ["expired"] * 3
    box.play()
    assert box.text(4) == "echo: has time"


def test_a_loop_with_nothing_but_paused_answers_sleeps_until_the_first_deadline():
    box = stage(slots=1)
    box.start(1, LONG, max_tokens=500, ttl_s=0.01)
    box.turn(60)
    box.pause(1)
    box.turn()
    assert box.loop.idle
    box.now = 0.01
    box.loop.turn(wait=True)  # with no message it would wait for ever
    assert box.end(1).code == "expired"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_pausing_and_resuming_in_any_order_changes_no_answer(seed, kind):
    dice = random.Random(seed)
    cache = dice.choice([0, 2000, CACHE])
    box = stage(slots=dice.randint(1, 3), ubatch=dice.randint(8, 40), cache_bytes=cache, **kind)
    jobs = {key: LONG[: dice.randint(0, 200)] for key in range(8)}
    for key, text in jobs.items():
        box.start(key, text, max_tokens=500, system=dice.choice(["", SYSTEM]))
    for _ in range(400):
        move = dice.random()
        if move < 0.1:
            box.pause(dice.choice(list(jobs)))
        elif move < 0.2:
            box.resume(dice.choice(list(jobs)))
        box.turn()
    for key in jobs:
        box.resume(key)
    box.play()
    for key, text in jobs.items():
        assert box.text(key) == "echo: " + text


@pytest.mark.parametrize("slots", [1, 3])
def test_what_is_let_go_of_takes_no_memory_however_it_is_in_use(slots):
    box = stage(slots=slots, systems=("You watch a door. " * 20,))
    box.turn(3)
    box.ask(1, "first", system=SYSTEM)
    box.start(2, "second", system=SYSTEM)
    box.turn(3)
    held = [weakref.ref(prefix) for prefix in box.loop._sharing.store]
    assert len(held) > 1
    box.shrink(0)
    box.turn()
    assert [one() for one in held] == [None] * len(held)
    box.play()
    assert box.text(2) == "echo: second"


def test_a_few_tokens_in_common_are_read_again():
    box = stage()
    box.ask(1, "x" * 100)
    box.ask(2, "y" * 100)
    assert box.cached(2) == 0
    assert not any(prefix.hits for prefix in box.loop._sharing.store)


def test_a_request_that_waits_for_what_another_reads_takes_no_slot_from_a_slow_reader():
    box = stage(slots=2, ubatch=16)
    box.start(1, LONG, max_tokens=500)
    box.turn(60)
    box.pause(1)
    box.start(2, "leads", system=SYSTEM)
    box.turn()
    box.start(3, "follows", system=SYSTEM)
    box.turn(3)
    assert not box.loop._slots.parked
    box.resume(1)
    box.play()
    assert box.text(1) == "echo: " + LONG
    assert box.cached(3) == HEAD


def test_what_an_urgent_request_waits_for_is_no_longer_urgent_when_it_is_gone():
    box = stage(slots=3, ubatch=16)
    box.start(1, "background", system=SYSTEM, max_tokens=1, priority=0)
    box.start(2, "c" * 120, max_tokens=1, priority=5)
    box.turn()
    box.start(3, "urgent", system=SYSTEM, max_tokens=1, priority=9)
    box.turn()
    box.cancel(3)
    box.play()
    ends = [message.key for message in box.said if isinstance(message, Done)]
    assert ends == [2, 1]


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_the_time_of_an_answer_is_that_in_which_somebody_read_it(turns):
    box = stage(slots=1, ubatch=16)
    box.start(1, "a prompt that takes three steps to read")
    box.turn(turns)
    box.pause(1)
    for _ in range(6):  # the first token may come in this time
        box.turn()
        box.now += 10.0
    box.resume(1)
    box.turn()
    box.now += 2.0
    box.play()
    assert box.end(1).decode_ms == pytest.approx(2000)
