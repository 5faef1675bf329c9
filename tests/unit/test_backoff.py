"""Attempts to load: quick after one crash, rare after many, never a storm."""

from __future__ import annotations

from edged.engine.backoff import BREAKER_FAILURES, CAP_S, FIRST_DELAY_S, STABLE_S, Backoff

WINDOW_S = 600.0


def attempts(span_s: float) -> list[float]:
    """Virtual times of attempts that all fail at once, within ``span_s``."""
    backoff, now, times = Backoff(), 0.0, []
    while now <= span_s:
        times.append(now)
        now += backoff.failed(0.0)
    return times


def test_a_model_that_never_loads_is_tried_at_most_12_times_in_any_10_minutes():
    times = attempts(2 * 3600)
    for start in times:
        assert sum(start <= at < start + WINDOW_S for at in times) <= 12


def test_delays_grow_up_to_the_cap_and_stay_there_for_days():
    backoff = Backoff()
    delays = [backoff.failed(0.0) for _ in range(3000)]  # four days
    assert delays[0] == FIRST_DELAY_S
    assert delays == sorted(delays)
    assert delays[-1] == CAP_S


def test_five_failures_in_a_row_open_the_breaker():
    backoff = Backoff()
    for _ in range(BREAKER_FAILURES - 1):
        backoff.failed(0.0)
        assert not backoff.broken
    backoff.failed(0.0)
    assert backoff.broken


def test_a_minute_of_service_makes_the_next_failure_the_first():
    backoff = Backoff()
    for _ in range(9):
        backoff.failed(0.0)
    assert backoff.failed(STABLE_S) == FIRST_DELAY_S
    assert not backoff.broken


def test_a_worker_that_dies_soon_after_each_load_counts_as_failing():
    backoff = Backoff()
    for _ in range(BREAKER_FAILURES):
        backoff.failed(STABLE_S - 1)
    assert backoff.broken
