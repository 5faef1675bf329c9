"""With how many threads and which wait policy the engine computes, and when to try that anew. Pure."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# More threads must be this much quicker: the last core is wanted by everything else on the box.
WORTH_A_CORE = 1.04
# Rounds that a thread spins at a barrier before it sleeps (GOMP_SPINCOUNT), in order of preference. A short
# spin keeps the quiet speed; none is best when a neighbour holds the core that a thread waits for. Longer
# ones are never tried: the little they may gain on a quiet box is lost many times over when it is not.
SPIN_COUNTS = (1000, 0)
WORTH_ANOTHER_WAIT = 1.10  # one figure of one trial is rarely off by more

ALTERED_CORES = 0.5  # of background load: half a core decides whether one thread more is worth it
WINDOW_S = 180.0  # a backup, an update or a burst of messages is over by then
ALTERED_SHARE = 0.8  # of the readings in the window
FULL = 0.95  # the part of a window that its first and last reading span
GAP_S = 60.0  # without readings for this long (no worker), what was seen before says nothing
REST_S = 1800.0  # at least between two trials, each of which makes requests wait
IDLE_CORES = 0.1  # less than that of idle time, and the CPUs are full
SPEEDS = 32  # answers that a speed is taken from
SPEEDS_NEEDED = 3
STILL_FAST = 0.9  # of the speed before: the background that came costs too little to try again

Direction = Literal[-1, 0, 1]


class Speed(Struct, frozen=True):
    """What a trial measured, in tokens per second."""

    decode_tps: float
    prefill_tps: float


class Settings(Struct, frozen=True, kw_only=True):
    """How the engine computes: threads of a step of one token, of larger steps, and the spin at barriers."""

    threads: int
    batch_threads: int
    spin_count: int = SPIN_COUNTS[0]


def thread_choices(most: int) -> tuple[int, ...]:
    """What is worth trying: all fast cores, one fewer for what else runs, and half of them."""
    return tuple(dict.fromkeys(count for count in (most, most - 1, most // 2) if count >= 1))


def choose_threads(tps: Mapping[int, float]) -> int:
    """The fewest threads within a few percent of the quickest."""
    best = max(tps.values())
    return min(count for count, speed in tps.items() if speed * WORTH_A_CORE >= best)


def choose_settings(spin_count: int, speeds: Mapping[int, Speed]) -> Settings:
    """The best of the thread counts that were tried with one wait policy."""
    return Settings(
        threads=choose_threads({count: speed.decode_tps for count, speed in speeds.items()}),
        batch_threads=choose_threads({count: speed.prefill_tps for count, speed in speeds.items()}),
        spin_count=spin_count,
    )


def choose_wait(tried: Sequence[tuple[Settings, Mapping[int, Speed]]]) -> Settings:
    """The first of ``tried``, or another whose wait policy decodes clearly faster."""
    chosen, speeds = tried[0]
    for settings, others in tried[1:]:
        if others[settings.threads].decode_tps > WORTH_ANOTHER_WAIT * speeds[chosen.threads].decode_tps:
            chosen, speeds = settings, others
    return chosen


class RetunePolicy:
    """Feed it readings of the load every few seconds and the speed of answers; obey what ``step`` says.

    ``cpus`` the engine may use; ``background`` CPUs' worth of other programs were busy when it was tuned.
    """

    def __init__(self, *, cpus: int, background: float) -> None:
        self._cpus = cpus
        self._background = background
        self._rest_until_s = 0.0
        self._readings: deque[tuple[float, Direction, float]] = deque()
        self._usual_tps: deque[float] = deque(maxlen=SPEEDS)
        self._altered_tps: deque[float] = deque(maxlen=SPEEDS)

    @property
    def background(self) -> float:
        """What other programs keep busy now, as far as it was seen; else when the engine was tuned."""
        return median(seen for _, _, seen in self._readings) if self._readings else self._background

    def answered(self, decode_tps: float) -> None:
        """Note the speed of an answer that had the engine to itself."""
        altered = bool(self._readings) and self._readings[-1][1] != 0
        (self._altered_tps if altered else self._usual_tps).append(decode_tps)

    def step(self, now_s: float, *, background: float, idle: float) -> str:
        """Why the engine should be tuned anew, for people; empty while there is no reason.

        ``background`` and ``idle``: CPUs' worth of time since the last reading that others used, and nobody.
        """
        readings = self._readings
        if readings and now_s - readings[-1][0] > GAP_S:
            readings.clear()
        direction = self._direction(background, idle)
        if direction and not any(seen == direction for _, seen, _ in readings):
            self._altered_tps.clear()  # of an earlier change that has passed
        readings.append((now_s, direction, background))
        while now_s - readings[0][0] > WINDOW_S:
            readings.popleft()
        lasting = self._lasting(now_s)
        if not lasting or now_s < self._rest_until_s or (lasting > 0 and self._still_fast()):
            return ""
        return (
            f"other programs keep {self.background:.1f} CPUs busy for {WINDOW_S / 60:.0f} minutes, "
            f"it was {self._background:.1f} when the engine was tuned"
        )

    def tuned(self, now_s: float) -> None:
        """The engine was tuned anew under the load that was seen last."""
        self._background = self.background
        self._rest_until_s = now_s + REST_S
        self._readings.clear()
        self._usual_tps.clear()
        self._altered_tps.clear()

    def _direction(self, background: float, idle: float) -> Direction:
        """Whether this reading shows more background than when tuned (1), less (-1), or about the same."""
        if background >= self._background + ALTERED_CORES:
            return 1
        return -1 if self._most(background, idle) <= self._background - ALTERED_CORES else 0

    def _most(self, background: float, idle: float) -> float:
        """What other programs might take without us.

        On full CPUs they show less: of d programs that compete with a thread of ours on each of c CPUs, the
        scheduler lets c·d / (c + d) run.
        """
        left = self._cpus - background
        full = idle < IDLE_CORES and left > 0
        return background * self._cpus / left if full else background

    def _lasting(self, now_s: float) -> Direction:
        """The direction of nearly all readings of a full window."""
        readings = self._readings
        if now_s - readings[0][0] < FULL * WINDOW_S:
            return 0
        directions: tuple[Direction, ...] = (-1, 1)
        for direction in directions:
            if sum(seen == direction for _, seen, _ in readings) >= ALTERED_SHARE * len(readings):
                return direction
        return 0

    def _still_fast(self) -> bool:
        usual, altered = self._usual_tps, self._altered_tps
        if min(len(usual), len(altered)) < SPEEDS_NEEDED:
            return False
        return median(altered) >= STILL_FAST * median(usual)
