"""How long to wait before the next attempt to connect (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_CEILING_S = 1.0
CAP_S = 60.0  # the longest a broker that came back waits for us
STABLE_S = 30.0  # a connection that lived this long was not part of a storm


class Backoff:
    """Full jitter: uniform between 0 and a ceiling that doubles with each failure, up to a minute.

    After a power cut a whole site of boxes meets one broker; jitter over the full range spreads them
    best (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._failures = 0

    def next_s(self) -> float:
        ceiling = min(CAP_S, FIRST_CEILING_S * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._uniform(0.0, ceiling)

    def connected_for(self, seconds: float) -> None:
        """Note how long the last connection lived; a stable one ends the row of failures."""
        if seconds >= STABLE_S:
            self._failures = 0
