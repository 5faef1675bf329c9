"""The last minutes of a box as curves in a terminal, above its status."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl.output.status import render
from edgectl.output.terminal import mib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from edged.api.status import Status

BLOCKS = " ▁▂▃▄▅▆▇█"
MOST_POINTS = 240  # wider than most terminals
LABEL_COLUMNS = 46  # what stands beside a curve
NARROWEST = 10


class Moment(Struct, frozen=True):
    """What one look at the box adds to the curves; None where it cannot tell."""

    tokens_per_s: float | None  # of all answers together
    waiting: int
    running: int
    memory_bytes: int
    temperature_c: float | None


class Trail:
    """Looks at a box, the oldest dropped; feed it each status as it comes."""

    def __init__(self) -> None:
        self.moments: deque[Moment] = deque(maxlen=MOST_POINTS)
        self._before: Status | None = None

    def add(self, status: Status) -> Moment:
        memory = status.memory
        moment = Moment(
            tokens_per_s=tokens_per_s(self._before, status),
            waiting=status.queue,
            running=status.running,
            memory_bytes=memory.worker_anon_bytes + memory.worker_swap_bytes,
            temperature_c=status.host.temperature_c,
        )
        self.moments.append(moment)
        self._before = status
        return moment

    def picture(self, status: Status, columns: int, note: str = "") -> RenderableType:
        """Curves as wide as ``columns`` allow, the status below them, ``note`` last."""
        width = max(NARROWEST, columns - LABEL_COLUMNS)
        now = self.moments[-1]
        budget, predicted = status.memory.budget_bytes, status.predicted
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", min_width=9)
        table.add_column(style="cyan", no_wrap=True, width=width)
        table.add_column()
        rates = [moment.tokens_per_s for moment in self.moments]
        speed = "–" if now.tokens_per_s is None else f"{now.tokens_per_s:.1f} tok/s"
        table.add_row("Tokens", curve(rates, width, top=predicted.decode_tps if predicted else 1.0), speed)
        waiting = [float(moment.waiting + moment.running) for moment in self.moments]
        requests = f"{now.running} running, {now.waiting} waiting"
        table.add_row("Requests", curve(waiting, width, top=status.model.slots), requests)
        used = [float(moment.memory_bytes) for moment in self.moments]
        share = f"{mib(now.memory_bytes)} of {mib(budget)}" if budget else mib(now.memory_bytes)
        table.add_row("Memory", curve(used, width, top=budget or max(used) or 1), share)
        if now.temperature_c is not None:
            heat = [moment.temperature_c for moment in self.moments]
            table.add_row("Heat", curve(heat, width, bottom=20.0, top=85.0), f"{now.temperature_c:.0f} °C")
        return Group(table, "", render(status), Text(note, style="dim"))


def tokens_per_s(before: Status | None, status: Status) -> float | None:
    """All answers together, between two looks; None at the first, over MQTT and across a restart."""
    if before is None or not status.pid or status.uptime_s <= before.uptime_s:
        return None
    tokens = status.counters.completion_tokens - before.counters.completion_tokens
    return max(0, tokens) / (status.uptime_s - before.uptime_s)


def curve(values: Sequence[float | None], width: int, *, top: float, bottom: float = 0.0) -> str:
    """The last ``width`` of ``values`` as blocks from ``bottom`` to ``top``, or to the largest above it."""
    shown = values[-width:]
    high = max([top, *(value for value in shown if value is not None)])
    return "".join(_block(value, bottom, high) for value in shown).rjust(width)


def _block(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    # What is not nothing is seen.
    return BLOCKS[max(1 if value > low else 0, round(share * (len(BLOCKS) - 1)))]
