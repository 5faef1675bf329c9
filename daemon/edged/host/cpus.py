"""Which CPUs compute fastest, and how many threads of computation this process may keep busy there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edged.host import cgroup
from edged.host.files import read_int, read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

CPUS = "sys/devices/system/cpu"
# Cores of one kind are binned apart (2256 to 2400 MHz on one RK3588) or turbo apart (a tenth on PCs); a slow
# cluster's cores have three quarters of the fast ones' capacity at most.
SAME_CLUSTER = 0.85


def fast_cpus(allowed: Collection[int] | None = None, root: Path = ROOT) -> tuple[int, ...]:
    """The CPUs of the fast cluster among ``allowed`` (default: this process's affinity), in order.

    A compute step waits at each barrier for its slowest thread, so that one slow core costs more than it
    brings. All of ``allowed`` where the kernel does not tell cores apart.
    """
    found = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    speeds = {cpu: _speed(root, cpu) for cpu in found}
    fastest = max(speeds.values(), default=0)
    return tuple(cpu for cpu in found if speeds[cpu] >= SAME_CLUSTER * fastest)


def compute_threads(cpus: Collection[int] | None = None, root: Path = ROOT) -> int:
    """One per physical core of ``cpus`` (default: the fast ones), at most the CPU quota, at least one.

    A second hardware thread of a core shares its vector units, so it adds contention rather than speed to
    matrix work.
    """
    cores = {_core(root, cpu) for cpu in (fast_cpus(root=root) if cpus is None else cpus)}
    quota = cgroup.cpu_quota(root)
    return max(1, min(len(cores), int(quota) if quota else len(cores)))


def _core(root: Path, cpu: int) -> str:
    return read_text(root / CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _speed(root: Path, cpu: int) -> int:
    """A figure to compare cores by: the scheduler's capacity (1024 = fastest), else the top kHz, else 0."""
    directory = root / CPUS / f"cpu{cpu}"
    return read_int(directory / "cpu_capacity") or read_int(directory / "cpufreq/cpuinfo_max_freq") or 0
