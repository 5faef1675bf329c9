"""The clock of the machine jumps."""

from __future__ import annotations

import time

import pytest

from tests.guest import machine
from tests.guest.devices import answer, asking
from tests.guest.machine import run, shown, until

pytestmark = pytest.mark.usefixtures("steady")

YEARS = 10 * 365 * 86400
WATCHDOG_S = 60.0


def clock(seconds: int) -> None:
    """Set the clock of the machine forward, or back."""
    run("date", "-s", f"@{int(time.time()) + seconds}")


@pytest.mark.timeout(400)
def test_the_clock_may_jump_ten_years_with_requests_in_flight_and_waiting():
    supervisor = shown("MainPID")
    long = {"max_tokens": 200, "ttl_s": 120}
    asked = [asking("cam", f"Tell a story of {n}.", f"r{n}", **long) for n in range(6)]
    until(lambda: machine.status()["queue"] >= 3, "requests that wait", 20)
    try:
        clock(YEARS)
        assert machine.status()["conditions"] == []
        clock(-2 * YEARS)
        assert machine.status()["conditions"] == []
        clock(2 * YEARS)
        ended = time.monotonic() + WATCHDOG_S + 10  # a promise about time: the watchdog's own has to pass
        answers = [answer(one, 150) for one in asked]
        while time.monotonic() < ended:
            assert machine.status()["state"] == "ready"
            time.sleep(5)
    finally:
        clock(-YEARS)
    assert [one["ok"] for one in answers] == [True] * 6
    assert shown("MainPID") == supervisor
    assert answer(asking("cam", "Say hello."))["ok"]
