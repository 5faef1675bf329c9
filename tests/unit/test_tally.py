"""What the daemon counts about requests, and how long they took."""

from __future__ import annotations

import pytest

from edged.api.events import Usage
from edged.tally import RECENT, TOKEN_BOUNDS_S, Observed, Tally


def answer(tally, *, prompt=100, cached=0, completion=11, heard=0, first_s=2.0, total_s=4.0, decode_s=2.0):
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)
    tally.answered(
        usage, heard_tokens=heard, waited_s=1.0, first_s=first_s, total_s=total_s, decode_s=decode_s
    )


def test_requests_are_counted_by_outcome_and_reason():
    tally = Tally()
    for outcome, reason in [
        ("finished", "stop"),
        ("finished", "stop"),
        ("failed", "expired"),
        ("refused", "busy"),
    ]:
        tally.ended(outcome, reason)
    tally.accepted()
    counted = tally.counters(engine_restarts=3)
    assert (counted.accepted, counted.finished, counted.failed, counted.refused) == (1, 2, 1, 1)
    assert counted.engine_restarts == 3
    assert counted.outcomes == {"finished": {"stop": 2}, "failed": {"expired": 1}, "refused": {"busy": 1}}


def test_tokens_of_an_answer_under_way_count_at_once_and_not_again_at_its_end():
    tally = Tally()
    for _ in range(4):
        tally.tokens(1, None)
    assert tally.counters(0).completion_tokens == 4
    answer(tally, completion=11, heard=4, cached=60)
    counted = tally.counters(0)
    assert (counted.prompt_tokens, counted.cached_tokens, counted.completion_tokens) == (100, 60, 11)


def test_more_pieces_than_tokens_never_make_a_counter_fall():
    tally = Tally()
    for _ in range(3):
        tally.tokens(1, None)
    answer(tally, completion=2, heard=3)
    assert tally.counters(0).completion_tokens == 3


def test_speeds_are_medians_of_the_last_answers():
    tally = Tally()
    assert tally.decode_tps is tally.prefill_tps is tally.first_s is tally.total_s is None
    for _ in range(RECENT):
        answer(tally, decode_s=10.0)
    for _ in range(RECENT):
        answer(tally, prompt=100, cached=40, completion=11, first_s=2.0, total_s=4.0, decode_s=2.0)
    assert tally.decode_tps == pytest.approx(5.0)
    assert tally.prefill_tps == pytest.approx(30.0)  # 60 tokens in 2 s; kept ones were not evaluated
    assert (tally.first_s, tally.total_s) == (2.0, 4.0)


def test_an_answer_without_generated_tokens_has_no_decode_speed():
    tally = Tally()
    answer(tally, prompt=3, completion=0, decode_s=0.0)
    assert tally.decode_tps is None
    assert tally.prefill_tps is None  # three tokens measure the machinery


def test_a_value_on_a_bound_counts_below_it_and_one_beyond_all_bounds_is_kept():
    observed = Observed((0.1, 1.0))
    for value in (0.05, 0.1, 0.2, 5.0):
        observed.add(value)
    found = observed.histogram()
    assert found.counts == (2, 1, 1)
    assert found.sum == pytest.approx(5.35)


def test_gaps_between_pieces_are_observed_but_for_pauses_of_the_reader():
    tally = Tally()
    tally.tokens(1, None)
    tally.tokens(1, 0.03)
    found = tally.latencies().token_s
    assert sum(found.counts) == 1
    assert found.counts[TOKEN_BOUNDS_S.index(0.04)] == 1


def test_speeds_of_another_model_are_forgotten_and_its_requests_are_not():
    tally = Tally()
    answer(tally)
    tally.other_model()
    assert (tally.decode_tps, tally.prefill_tps, tally.first_s, tally.total_s) == (None, None, None, None)
    assert tally.counters(engine_restarts=0).prompt_tokens == 100
