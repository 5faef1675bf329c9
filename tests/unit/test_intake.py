"""Promise P13: heat, weak power and pressure lower the intake, and it recovers without flapping."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.guard.strain import read_strain
from edged.scheduling.intake import OPEN, REST_S, SHARES, Intake, IntakePolicy, Strain

EVERY_S = 5.0


def play(strains: list[Strain], policy: IntakePolicy | None = None) -> list[tuple[float, Intake]]:
    """(time, intake) at each change of the share."""
    policy = policy or IntakePolicy()
    changes = [(float("-inf"), OPEN)]
    for number, strain in enumerate(strains):
        now = number * EVERY_S
        intake = policy.sample(now, strain)
        if intake.share != changes[-1][1].share:
            changes.append((now, intake))
    return changes[1:]


def heat(*celsius: float) -> list[Strain]:
    return [Strain(celsius=one, hot_c=80.0, critical_c=105.0) for one in celsius]


# A small board without a fan in a closed box in the sun, every five seconds.
CLOSED_BOX = heat(
    *(60.0 + 0.4 * step for step in range(50)),  # to 80 °C
    *(80.0 + (step % 4) * 0.7 for step in range(60)),  # five minutes about it
    *(82.0 - 0.5 * step for step in range(40)),  # in the shade
)  # fmt: skip


def test_a_box_in_the_sun_takes_half_and_all_again_in_the_shade():
    changes = play(CLOSED_BOX)
    assert [intake.share for _, intake in changes] == [0.5, 1.0]
    assert changes[0][1].cause == "thermal"
    assert "80 °C" in changes[0][1].why
    assert changes[1][1] == OPEN


@pytest.mark.parametrize(
    ("celsius", "share"), [(79.0, 1.0), (80.0, 0.5), (90.0, 0.25), (100.0, 0.0), (104.0, 0.0)]
)
def test_the_hotter_the_less_is_let_in(celsius, share):
    policy = IntakePolicy()
    play(heat(celsius) * 3, policy)
    assert policy.intake.share == share


def test_one_hot_sample_is_not_a_state():
    assert play(heat(*[70, 70, 95, 70, 70] * 20)) == []


def test_what_a_board_says_of_itself_counts_without_a_temperature():
    weak = Strain(throttled=("under-voltage",))
    ((_, intake),) = play([weak] * 30)
    assert (intake.share, intake.cause) == (0.5, "thermal")
    assert "under-voltage" in intake.why


def test_pressure_on_memory_lets_in_less_before_the_guard_sheds():
    some, full = (
        Strain(memory_some_percent=25.0, memory_full_percent=1.0),
        Strain(memory_some_percent=30.0, memory_full_percent=6.0),
    )
    assert [(one.share, one.cause) for _, one in play([some] * 5)] == [(0.5, "memory_guard")]
    assert [one.share for _, one in play([full] * 5)] == [0.25]


def test_from_the_worst_it_recovers_step_by_step():
    policy = IntakePolicy()
    assert [one.share for _, one in play(heat(*[103.0] * 5, *[40.0] * 60), policy)] == [0.0, 0.25, 0.5, 1.0]


@given(
    st.lists(
        st.builds(
            Strain,
            celsius=st.none() | st.floats(20, 110),
            throttled=st.sampled_from([(), ("throttled",), ("under-voltage",)]),
            memory_some_percent=st.none() | st.floats(0, 100),
            memory_full_percent=st.none() | st.floats(0, 100),
        ),
        max_size=200,
    )
)
def test_whatever_the_sensors_say_it_changes_once_a_minute_at_most(strains):
    changes = play(strains)
    assert all(later - earlier >= REST_S for (earlier, _), (later, _) in pairwise(changes))
    assert all(intake.share in SHARES for _, intake in changes)
    assert all(bool(intake.why) == (intake.share < 1) for _, intake in changes)


@given(st.lists(st.floats(76.0, 84.0), min_size=200, max_size=200))
def test_about_the_limit_it_does_not_flap(celsius):
    assert len(play(heat(*celsius))) <= 1


@pytest.mark.parametrize(("share", "used"), [(1.0, 4), (0.5, 2), (0.25, 1), (0.0, 0)])
def test_slots_follow_the_share(share, used):
    assert Intake(share=share).slots(4) == used
    assert Intake(share=share).slots(1) == (1 if share else 0)


# --- the sensors, in a tree of files ---------------------------------------------------------------


def zone(root, number, name, millidegrees, **trips):
    directory = root / f"sys/class/thermal/thermal_zone{number}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "type").write_text(f"{name}\n")
    (directory / "temp").write_text(f"{millidegrees}\n")
    for index, (kind, value) in enumerate(trips.items()):
        (directory / f"trip_point_{index}_type").write_text(f"{kind}\n")
        (directory / f"trip_point_{index}_temp").write_text(f"{value}\n")


def test_limits_are_those_of_the_kernel_where_it_names_them(tmp_path):
    zone(tmp_path, 0, "cpu-thermal", 71000, passive=75000, critical=95000, active=50000)
    strain = read_strain(tmp_path)
    assert (strain.celsius, strain.hot_c, strain.critical_c) == (71.0, 75.0, 95.0)


@pytest.mark.parametrize(
    ("trips", "limits"),
    [
        ({}, (90.0, 105.0)),
        ({"passive": 0, "critical": -274000}, (90.0, 105.0)),
        ({"critical": 90000}, (80.0, 90.0)),
        ({"critical": 119000}, (90.0, 119.0)),
    ],
)
def test_trip_points_that_are_nonsense_or_missing_do_not_count(tmp_path, trips, limits):
    zone(tmp_path, 0, "acpitz", 40000, **trips)
    strain = read_strain(tmp_path)
    assert (strain.hot_c, strain.critical_c) == limits


def test_a_host_without_sensors_strains_nobody(tmp_path):
    assert play([read_strain(tmp_path)] * 20) == []


def test_a_script_drives_the_files_and_the_intake_follows(tmp_path):
    pressure = tmp_path / "proc/pressure/memory"
    pressure.parent.mkdir(parents=True)
    strains = []
    for celsius, some in [(50, 0)] * 3 + [(88, 0)] * 20 + [(50, 40)] * 20 + [(50, 0)] * 20:
        zone(tmp_path, 0, "soc", celsius * 1000, passive=85000, critical=110000)
        pressure.write_text(
            f"some avg10={some}.00 avg60=0.00 avg300=0.00 total=1\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
        )
        strains.append(read_strain(tmp_path))
    policy = IntakePolicy()
    told = [policy.sample(number * EVERY_S, strain) for number, strain in enumerate(strains)]
    causes = [cause for cause, _ in groupby((intake.share, intake.cause) for intake in told)]
    assert causes == [(1.0, ""), (0.5, "thermal"), (0.5, "memory_guard"), (1.0, "")]
