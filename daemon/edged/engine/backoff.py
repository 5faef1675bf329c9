"""How long to wait before the next attempt to load a model. Pure."""

from __future__ import annotations

FIRST_DELAY_S = 0.1  # a crash out of the blue is answered at once
CAP_S = 120.0
BREAKER_FAILURES = 5  # from then on the engine is called broken, though attempts go on
STABLE_S = 60.0  # ready for this long: earlier failures no longer count


class Backoff:
    """Counts failures in a row: 0.1 s, 1 s, 2 s, 4 s … 120 s; at most 12 attempts in 10 minutes."""

    def __init__(self) -> None:
        self.failures = 0

    @property
    def broken(self) -> bool:
        return self.failures >= BREAKER_FAILURES

    def failed(self, ready_s: float) -> float:
        """Note a failure after ``ready_s`` seconds of service (0: never ready); the delay in seconds."""
        if ready_s >= STABLE_S:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return FIRST_DELAY_S
        # Bounded before it is a power: a model that is missing for days fails thousands of times.
        return min(CAP_S, 2.0 ** min(self.failures - 2, 10))
