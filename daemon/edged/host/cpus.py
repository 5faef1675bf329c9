"""How many threads of computation this process may keep busy."""

from __future__ import annotations

import os

from edged.host import cgroup
from edged.host.files import read_text
from edged.host.procfs import ROOT


def compute_threads() -> int:
    """One per physical core in this process's affinity, at most its CPU quota, at least one.

    A second hardware thread of a core shares its vector units, so it adds
    contention rather than speed to matrix work.
    """
    allowed = os.sched_getaffinity(0)
    topology = ROOT / "sys/devices/system/cpu"
    cores = {read_text(topology / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    quota = cgroup.cpu_quota()
    return max(1, min(len(cores), int(quota) if quota else len(cores)))
