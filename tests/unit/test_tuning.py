from __future__ import annotations

import random

import pytest

from edged.engine.tuning import (
    REST_S,
    WINDOW_S,
    RetunePolicy,
    Settings,
    Speed,
    choose_settings,
    choose_threads,
    choose_wait,
    thread_choices,
)

STEP_S = 5.0
CPUS = 4


def speeds(decode, prefill=None):
    return {count: Speed(tps, (prefill or decode)[count]) for count, tps in decode.items()}


# --- what is tried, and which is best -------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "choices"), [(1, (1,)), (2, (2, 1)), (3, (3, 2, 1)), (4, (4, 3, 2)), (8, (8, 7, 4))]
)
def test_all_fast_cores_one_fewer_and_half_are_tried(most, choices):
    assert thread_choices(most) == choices


@pytest.mark.parametrize(
    ("tps", "threads"),
    [
        ({4: 20.0, 3: 15.0, 2: 10.0}, 4),
        ({4: 20.0, 3: 19.4, 2: 12.0}, 3),  # bandwidth is used up, a core is left for others
        ({4: 20.0, 3: 19.4, 2: 19.3}, 2),
        ({4: 3.0, 3: 16.0, 2: 14.0}, 3),  # a neighbour holds a core
        ({1: 5.0}, 1),
    ],
)
def test_the_fewest_threads_within_a_few_percent_of_the_quickest(tps, threads):
    assert choose_threads(tps) == threads


def test_steps_of_one_token_and_larger_ones_have_threads_of_their_own():
    tried = speeds({4: 20.0, 3: 19.5, 2: 12.0}, {4: 100.0, 3: 75.0, 2: 50.0})
    assert choose_settings(1000, tried) == Settings(threads=3, batch_threads=4, spin_count=1000)


def test_another_wait_policy_must_be_clearly_faster():
    def tried(spin_count, decode):
        table = speeds(decode)
        return choose_settings(spin_count, table), table

    short = tried(1000, {4: 20.0, 2: 12.0})
    assert choose_wait([short, tried(0, {4: 21.0, 2: 12.0})]).spin_count == 1000
    chosen = choose_wait([short, tried(0, {4: 26.0, 2: 25.5})])
    assert (chosen.spin_count, chosen.threads) == (0, 2)


# --- when to try again ----------------------------------------------------------------------


class Box:
    """Feeds a policy one reading every five seconds."""

    def __init__(self, background=0.0, cpus=CPUS):
        self.policy = RetunePolicy(cpus=cpus, background=background)
        self.now_s = 1000.0
        self.tuned_at = []

    def live(self, minutes, background, idle=None):
        """Readings for so long; after a reason to tune the engine is tuned. The reasons, in order."""
        reasons = []
        for _ in range(round(minutes * 60 / STEP_S)):
            self.now_s += STEP_S
            seen = background() if callable(background) else background
            left = max(0.0, CPUS - seen) if idle is None else idle
            if why := self.policy.step(self.now_s, background=seen, idle=left):
                reasons.append(why)
                self.tuned_at.append(self.now_s)
                self.policy.tuned(self.now_s)
        return reasons


def test_a_quiet_box_is_left_alone_for_a_day():
    dice = random.Random(1)
    assert Box().live(24 * 60, lambda: abs(dice.gauss(0.05, 0.1))) == []


def test_a_neighbour_that_stays_for_minutes_is_a_reason_and_told_in_numbers():
    (why,) = Box().live(10, 1.6)
    assert "1.6 CPUs busy for 3 minutes, it was 0.0" in why


def test_a_neighbour_that_leaves_is_a_reason_too():
    assert len(Box(background=2.0).live(10, 0.2)) == 1


@pytest.mark.parametrize("background", [0.4, 0.49])
def test_less_than_half_a_core_is_none(background):
    assert Box().live(60, background) == []


def test_a_burst_of_two_minutes_passes():
    box = Box()
    for _ in range(20):
        assert box.live(2, 3.0) == []
        assert box.live(4, 0.1) == []


def test_a_load_that_comes_and_goes_every_minute_is_none():
    box = Box()
    for _ in range(60):
        assert box.live(1, 2.0) + box.live(1, 0.0) == []


def test_a_few_quiet_readings_in_between_hide_no_neighbour():
    dice = random.Random(2)
    assert len(Box().live(10, lambda: 0.0 if dice.random() < 0.1 else 1.5)) == 1


def test_however_the_load_changes_half_an_hour_lies_between_two_trials():
    box = Box()
    dice = random.Random(3)
    for _ in range(200):
        box.live(dice.uniform(1, 20), dice.choice([0.0, 1.0, 2.0, 3.0]))
    between = [later - sooner for sooner, later in zip(box.tuned_at, box.tuned_at[1:], strict=False)]
    assert len(between) > 10
    assert min(between) >= REST_S


def test_a_change_while_it_rests_is_acted_on_when_the_rest_is_over():
    box = Box()
    box.live(5, 2.0)
    (first,) = box.tuned_at
    box.live(60, 0.0)
    assert box.tuned_at == [first, first + REST_S]


def test_a_neighbour_who_shows_less_while_we_compute_has_not_left():
    """Four threads of ours and two of others on four CPUs: the two get 1.33 CPUs between them."""
    assert Box(background=2.0).live(30, 1.33, idle=0.0) == []
    assert len(Box(background=2.0).live(30, 0.1, idle=0.0)) == 1


def test_a_neighbour_who_costs_no_speed_is_no_reason():
    box = Box()
    for _ in range(5):
        box.live(0.5, 0.0)
        box.policy.answered(20.0)
    for _ in range(20):
        assert box.live(0.5, 1.0) == []
        box.policy.answered(19.5)
    for _ in range(5):
        box.policy.answered(8.0)
    for _ in range(40):
        box.policy.answered(8.0)
    assert len(box.live(0.5, 1.0)) == 1


def test_speeds_of_a_neighbour_long_gone_say_nothing_about_the_next():
    box = Box()
    box.live(1, 0.0)
    for _ in range(10):
        box.policy.answered(20.0)
    box.live(1, 1.0)
    for _ in range(10):
        box.policy.answered(20.0)
    box.live(10, 0.0)
    assert len(box.live(10, 2.0)) == 1


def test_without_readings_for_a_while_the_count_begins_anew():
    box = Box()
    box.live(2, 2.0)
    box.now_s += 300
    assert box.live(2, 2.0) == []
    assert len(box.live(2, 2.0)) == 1


def test_the_background_is_the_usual_one_of_the_window():
    box = Box(background=0.7)
    dice = random.Random(4)
    assert box.policy.background == 0.7
    box.live(WINDOW_S / 60, lambda: dice.choice([0.5, 0.5, 0.5, 3.0]))
    assert box.policy.background == 0.5
