"""Takes one sample a second of what the worker and the host use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edged.api.status import HostStatus, MemoryStatus, Stalls
from edged.guard.policy import Sample
from edged.host import cgroup
from edged.host.pressure import cpu_pressure, io_pressure, memory_pressure
from edged.host.procfs import ROOT, ProcessMemory, meminfo, process_memory
from edged.host.thermal import hottest_zone, throttling

if TYPE_CHECKING:
    from pathlib import Path

    from edged.api.config import Memory
    from edged.host.pressure import Pressure

MIB = 1 << 20
NOTHING = ProcessMemory(0, 0, 0, 0, 0)


class Sampler:
    """Reads /proc below ``root``; keeps the last reading for ``status``."""

    def __init__(self, config: Memory, *, leaf: str = "", root: Path = ROOT) -> None:
        self._config = config
        self._root = root
        self._leaf = leaf
        self._worker = NOTHING

    def sample(self, worker_pid: int | None) -> Sample:
        """One reading; a worker that has just died counts as none."""
        self._worker = (process_memory(worker_pid, self._root) if worker_pid else None) or NOTHING
        host = meminfo(self._root)
        limit = cgroup.memory_limit(self._root)
        pressure = memory_pressure(self._root)
        available = min(host.available_bytes, limit.available_bytes) if limit else host.available_bytes
        return Sample(
            worker_bytes=self._worker.rss_anon_bytes + self._worker.swap_bytes,
            budget_bytes=self._config.budget_mib * MIB,
            available_bytes=available,
            min_available_bytes=self._config.min_available_mib * MIB,
            pressure=pressure.full.avg10 if pressure else None,
        )

    def status(self) -> MemoryStatus:
        """The last reading of the worker and a fresh one of this process."""
        own = process_memory(os.getpid(), self._root) or NOTHING
        return MemoryStatus(
            budget_bytes=self._config.budget_mib * MIB,
            worker_anon_bytes=self._worker.rss_anon_bytes,
            worker_swap_bytes=self._worker.swap_bytes,
            worker_file_bytes=self._worker.rss_file_bytes,
            supervisor_bytes=own.rss_anon_bytes + own.rss_file_bytes,
            enforced_by=self._enforcers(),
        )

    def host(self) -> HostStatus:
        """A fresh reading of heat, power and pressure."""
        zone, throttle = hottest_zone(self._root), throttling(self._root)
        readers = {"memory": memory_pressure, "cpu": cpu_pressure, "io": io_pressure}
        return HostStatus(
            temperature_c=None if zone is None else zone.celsius,
            throttled=None if throttle is None else throttle.now,
            stalls={name: _stalls(found) for name, read in readers.items() if (found := read(self._root))},
        )

    def _enforcers(self) -> tuple[str, ...]:
        found = ["guard, once a second"] if self._config.budget_mib else []
        if self._leaf:
            found.append(f"memory.max of {self._leaf}")
        outer = cgroup.memory_enforcer(self._root)
        if outer.limit_bytes is not None:
            found.append(f"{outer.kind} limit of {outer.limit_bytes // MIB} MiB")
        return tuple(found)


def _stalls(pressure: Pressure) -> Stalls:
    some, full = pressure.some, pressure.full
    return Stalls(
        some_percent=some.avg10,
        full_percent=full.avg10,
        some_s=some.total_us / 1e6,
        full_s=full.total_us / 1e6,
    )
