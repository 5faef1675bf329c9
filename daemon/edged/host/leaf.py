"""A control-group leaf of the worker's own, so that its memory limit kills it alone.

Needs a cgroup v2 subtree that systemd has delegated to us (``Delegate=memory pids``).
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from edged.host import cgroup
from edged.host.files import read_text

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("edged.cgroup")

SUPERVISOR, WORKER = "supervisor", "worker"


class WorkerLeaf:
    """Where workers are put. ``name`` is empty when this host cannot limit them so."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    @property
    def name(self) -> str:
        return f"the worker's control group ({self._directory})" if self._directory else ""

    def place(self, pid: int) -> None:
        """Move a process into the leaf; raises OSError. Nothing to do without one."""
        if self._directory is not None:
            (self._directory / "cgroup.procs").write_text(str(pid))


def make_leaf(limit_bytes: int) -> WorkerLeaf:
    """Split our own delegated group into supervisor and worker; never fails, says why it cannot."""
    if limit_bytes <= 0 or cgroup.memory_version() != 2:
        return WorkerLeaf(None)
    own = cgroup.own_directory()
    if own is None or not os.access(own / "cgroup.procs", os.W_OK) or own.name == SUPERVISOR:
        log.info("the memory limit of the worker is watched, not enforced: no delegated control group")
        return WorkerLeaf(None)
    try:
        # Processes may live in leaves only, so we leave the inner node before controllers are enabled on it.
        (own / SUPERVISOR).mkdir(exist_ok=True)
        (own / SUPERVISOR / "cgroup.procs").write_text(str(os.getpid()))
        (own / "cgroup.subtree_control").write_text("+memory")
        leaf = own / WORKER
        leaf.mkdir(exist_ok=True)
        (leaf / "memory.max").write_text(str(limit_bytes))
        # The whole leaf dies together, so no half-dead worker is left.
        (leaf / "memory.oom.group").write_text("1")
        if read_text(leaf / "memory.swap.max") is not None:
            (leaf / "memory.swap.max").write_text("0")
    except OSError as error:
        log.warning("the worker has no control group of its own: %s", error)
        return WorkerLeaf(None)
    return WorkerLeaf(leaf)
