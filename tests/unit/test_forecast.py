"""How long an answer is expected to take, held against an engine that takes exactly as long as it says."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.scheduling.forecast import SURE, Answered, Sizes, Speeds, Work, forecast

SPEEDS = Speeds(prefill_tps=100.0, decode_tps=10.0)


def expected(work=None, *, ahead=0.0, running=(), slots=2, speeds=SPEEDS):
    work = work or Work(prompt_tokens=100, answer_tokens=20)
    return forecast(work, ahead_tokens=ahead, running=running, slots=slots, speeds=speeds)


def test_with_a_free_slot_the_first_token_is_as_far_as_the_prompt_is_long():
    found = expected()
    assert (found.wait_s, found.first_s, found.total_s, found.eta_s) == (0, 1.0, 3.0, 1.0)


def test_with_no_free_slot_it_waits_for_the_answer_that_ends_first():
    found = expected(running=[Work(answer_tokens=50), Work(answer_tokens=20)])
    assert found.wait_s == 2.0


def test_nothing_is_foretold_while_no_speed_is_known():
    assert expected(speeds=Speeds()) is None


def test_what_is_not_known_counts_as_no_time():
    assert expected(speeds=Speeds(decode_tps=10.0)).first_s == 0
    assert expected(speeds=Speeds(prefill_tps=100.0)).total_s == 1.0


@given(
    waiting=st.integers(0, 30),
    slots=st.integers(1, 8),
    prompt=st.integers(1, 2000),
    answer=st.integers(1, 500),
    done=st.floats(0, 1),
)
def test_the_wait_is_that_of_a_box_whose_answers_are_all_alike(waiting, slots, prompt, answer, done):
    work = Work(prompt_tokens=prompt, answer_tokens=answer)
    one_s = work.seconds(SPEEDS)
    # Answers in the slots are through in even steps; that is what a busy box comes to.
    running = [
        Work(answer_tokens=answer * (number + done) / slots, prompt_tokens=prompt * (number + done) / slots)
        for number in range(slots)
    ]
    free_at = [left.seconds(SPEEDS) for left in running]
    heapq.heapify(free_at)
    for _ in range(waiting):
        heapq.heappush(free_at, heapq.heappop(free_at) + one_s)
    found = expected(work, ahead=waiting * work.tokens, running=running, slots=slots)
    assert found.wait_s == pytest.approx(free_at[0], abs=one_s / slots + 1e-6)


@given(
    ahead=st.floats(0, 1e6),
    more=st.floats(0, 1e6),
    ttl_s=st.floats(0.1, 1e5),
    left=st.lists(st.floats(0, 1000), max_size=4),
)
def test_more_work_ahead_never_makes_an_answer_sooner_or_a_refusal_milder(ahead, more, ttl_s, left):
    running = [Work(answer_tokens=tokens) for tokens in left]
    less, all_of_it = (expected(ahead=tokens, running=running) for tokens in (ahead, ahead + more))
    assert less.wait_s <= all_of_it.wait_s
    late, later = less.too_late_by(ttl_s), all_of_it.too_late_by(ttl_s)
    assert late is None or (later is not None and late <= later)


def test_only_what_surely_comes_too_late_is_refused_and_told_when_it_would_not():
    found = expected(ahead=1200, running=[Work(answer_tokens=10)] * 2)
    assert (found.wait_s, found.total_s) == (16.0, 3.0)
    assert found.too_late_by(19.0) is None
    assert found.too_late_by(SURE * 19.0 + 0.1) is None
    assert found.too_late_by(10.0) == 9.0
    # With what is ahead gone it would just be answered in time.
    later = expected(ahead=1200 - 9.0 * 2 * 40, running=[Work(answer_tokens=10)] * 2)
    assert later.wait_s + later.total_s <= 10.0 + 1e-6


def test_a_box_with_nothing_to_do_tries_however_short_the_time():
    assert expected().too_late_by(0.001) is None


def test_sizes_are_those_of_the_last_answers():
    sizes = Sizes()
    assert sizes.work(400, 2000) == Work(prompt_tokens=100, answer_tokens=128)
    for _ in range(40):
        sizes.learn(Answered(prompt_chars=300, prompt_tokens=150, cached_tokens=0, answer_tokens=40))
    assert sizes.work(400, 2000) == Work(prompt_tokens=200, answer_tokens=40)
    assert sizes.work(400, 10).answer_tokens == 10
    for _ in range(40):
        sizes.learn(Answered(prompt_chars=300, prompt_tokens=150, cached_tokens=120, answer_tokens=0))
    assert sizes.work(400, 2000) == Work(prompt_tokens=40, answer_tokens=128)


@pytest.mark.parametrize(
    ("answered", "most", "left"),
    [(0, 500, 150), (20, 500, 80), (100, 500, 50), (480, 500, 20), (500, 500, 0)],
)
def test_what_is_left_of_an_answer_shrinks_to_nothing_at_its_limit(answered, most, left):
    work = Work(prompt_tokens=50, answer_tokens=100)
    assert work.left(answered, most).tokens == left
