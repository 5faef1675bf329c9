"""Counts what became of requests and how long they took; fixed in size however long the daemon lives."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

from edged.api.status import Counters, Histogram, Latencies

if TYPE_CHECKING:
    from edged.api.events import Usage

RECENT = 32  # answers that "recent" speeds are taken from
# Prompts of fewer tokens say more about the machinery around a step than about reading.
SHORTEST_PREFILL_TOKENS = 16
# Seconds. From a small model on a fast computer to a document on a Raspberry Pi.
TOKEN_BOUNDS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56)
WAIT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)


class Observed:
    """A histogram that grows; values above the last bound are counted too."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def histogram(self) -> Histogram:
        return Histogram(bounds=self._bounds, counts=tuple(self._counts), sum=self._sum)


class Tally:
    """Lives as long as the service; counters since the start, medians of the last answers."""

    def __init__(self) -> None:
        self._accepted = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._outcomes: dict[str, dict[str, int]] = {"finished": {}, "failed": {}, "refused": {}}
        self._queue = Observed(WAIT_BOUNDS_S)
        self._first_token = Observed(WAIT_BOUNDS_S)
        self._token = Observed(TOKEN_BOUNDS_S)
        self._request = Observed(WAIT_BOUNDS_S)
        self._first_s: deque[float] = deque(maxlen=RECENT)
        self._total_s: deque[float] = deque(maxlen=RECENT)
        self._decode_tps: deque[float] = deque(maxlen=RECENT)
        self._prefill_tps: deque[float] = deque(maxlen=RECENT)

    # --- what happened --------------------------------------------------------------------

    def accepted(self) -> None:
        self._accepted += 1

    def ended(self, outcome: str, reason: str) -> None:
        """``outcome`` is finished, failed or refused; ``reason`` a finish reason or an error's code."""
        reasons = self._outcomes[outcome]
        reasons[reason] = reasons.get(reason, 0) + 1

    def started(self, waited_s: float) -> None:
        """A request left the queue for a slot."""
        self._queue.add(waited_s)

    def first_token(self, after_s: float) -> None:
        """``after_s`` counts from the request's acceptance."""
        self._first_token.add(after_s)

    def tokens(self, count: int, gap_s: float | None) -> None:
        """``count`` tokens of an answer came; None where the pause before says nothing about the engine."""
        self._completion_tokens += count
        if gap_s is not None:
            self._token.add(gap_s / count, count)

    def answered(
        self,
        usage: Usage,
        *,
        heard_tokens: int,
        waited_s: float,
        first_s: float,
        total_s: float,
        decode_s: float,
    ) -> None:
        """A whole answer; ``first_s`` and ``total_s`` count from its slot, ``waited_s`` went before that.

        ``heard_tokens`` of it were told by `tokens`.
        """
        self._request.add(waited_s + total_s)
        self._prompt_tokens += usage.prompt_tokens
        self._cached_tokens += usage.cached_tokens
        self._completion_tokens += max(0, usage.completion_tokens - heard_tokens)
        self._first_s.append(first_s)
        self._total_s.append(total_s)
        if decode_s > 0 and usage.completion_tokens > 1:
            self._decode_tps.append((usage.completion_tokens - 1) / decode_s)
        evaluated = usage.prompt_tokens - usage.cached_tokens
        if first_s > 0 and evaluated >= SHORTEST_PREFILL_TOKENS:
            self._prefill_tps.append(evaluated / first_s)

    def other_model(self) -> None:
        """What was measured lately was of another model."""
        for recent in (self._first_s, self._total_s, self._decode_tps, self._prefill_tps):
            recent.clear()

    # --- what is known --------------------------------------------------------------------

    @property
    def first_s(self) -> float | None:
        """From slot to first token, of the last answers."""
        return _median(self._first_s)

    @property
    def total_s(self) -> float | None:
        """From slot to the end, of the last answers."""
        return _median(self._total_s)

    @property
    def decode_tps(self) -> float | None:
        return _median(self._decode_tps)

    @property
    def prefill_tps(self) -> float | None:
        return _median(self._prefill_tps)

    def counters(self, engine_restarts: int) -> Counters:
        return Counters(
            accepted=self._accepted,
            finished=sum(self._outcomes["finished"].values()),
            failed=sum(self._outcomes["failed"].values()),
            refused=sum(self._outcomes["refused"].values()),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            engine_restarts=engine_restarts,
            outcomes={outcome: dict(reasons) for outcome, reasons in self._outcomes.items()},
        )

    def latencies(self) -> Latencies:
        return Latencies(
            queue_s=self._queue.histogram(),
            first_token_s=self._first_token.histogram(),
            token_s=self._token.histogram(),
            request_s=self._request.histogram(),
        )


def _median(values: deque[float]) -> float | None:
    return median(values) if values else None
