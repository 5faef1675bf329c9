"""How many CPUs other programs keep busy, from /proc/stat less what we use ourselves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.host.files import read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# proc_stat(5), after the name: user nice system idle iowait irq softirq steal. Guest time is in user already.
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
IDLE_FIELDS = (3, 4)


class CpuTimes(Struct, frozen=True):
    """CPU seconds since boot that some CPUs were busy and idle; stolen time counts as busy."""

    busy_s: float
    idle_s: float


class CpuLoad(Struct, frozen=True):
    """CPUs' worth of time over a while: what other programs kept busy, what nobody used."""

    background: float
    idle: float


def cpu_times(cpus: Collection[int], root: Path = ROOT) -> CpuTimes:
    """The times of ``cpus`` together; CPUs that are offline count nothing."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    busy = idle = 0
    for line in (read_text(root / "proc/stat", limit=1 << 20) or "").splitlines():
        name, *fields = line.split()
        if name in wanted and all(field.isdecimal() for field in fields):
            ticks = [int(field) for field in fields]
            busy += sum(ticks[n] for n in BUSY_FIELDS if n < len(ticks))
            idle += sum(ticks[n] for n in IDLE_FIELDS if n < len(ticks))
    return CpuTimes(busy / TICKS_PER_S, idle / TICKS_PER_S)


def process_cpu_s(pid: int, root: Path = ROOT) -> float | None:
    """CPU seconds of a process's threads, the ended ones included; None when the process is gone."""
    text = read_text(root / f"proc/{pid}/stat")
    # The name stands in brackets and may itself hold brackets and blanks; utime is the 12th word after it.
    words = text.rpartition(")")[2].split() if text else []
    return (int(words[11]) + int(words[12])) / TICKS_PER_S if len(words) > 12 else None


class LoadMeter:
    """Each reading covers the time since the one before."""

    def __init__(self, cpus: Sequence[int], root: Path = ROOT) -> None:
        self._cpus = cpus
        self._root = root
        self._last: tuple[float, CpuTimes, dict[int, float]] | None = None

    def read(self, now_s: float, own: Collection[int]) -> CpuLoad | None:
        """The load besides the processes ``own``; None the first time, or when one of them is new or gone.

        ``now_s`` is monotonic time in seconds.
        """
        times = cpu_times(self._cpus, self._root)
        used = {pid: process_cpu_s(pid, self._root) for pid in own}
        known = {pid: seconds for pid, seconds in used.items() if seconds is not None}
        last, self._last = self._last, (now_s, times, known)
        if last is None or last[0] >= now_s or last[2].keys() != known.keys() or len(known) < len(used):
            return None
        span_s = now_s - last[0]
        ours_s = sum(known.values()) - sum(last[2].values())
        return CpuLoad(
            background=max(0.0, times.busy_s - last[1].busy_s - ours_s) / span_s,
            idle=max(0.0, times.idle_s - last[1].idle_s) / span_s,
        )
