"""Reads pressure stall information: how long tasks wait for memory, CPU and I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edged.host.files import read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from pathlib import Path


class Stall(Struct, frozen=True):
    """Percent of time stalled over the last 10 and 60 s, and microseconds stalled since boot."""

    avg10: float = 0.0
    avg60: float = 0.0
    total_us: int = 0


class Pressure(Struct, frozen=True):
    """``some``: at least one task waited; ``full``: all of them did (docs.kernel.org/accounting/psi.html)."""

    some: Stall
    full: Stall


def memory_pressure(root: Path = ROOT, cgroup_dir: Path | None = None) -> Pressure | None:
    """Waiting for memory, on the whole computer or in one cgroup (version 2); None when PSI is off."""
    return _pressure("memory", root, cgroup_dir)


def cpu_pressure(root: Path = ROOT, cgroup_dir: Path | None = None) -> Pressure | None:
    return _pressure("cpu", root, cgroup_dir)


def io_pressure(root: Path = ROOT, cgroup_dir: Path | None = None) -> Pressure | None:
    return _pressure("io", root, cgroup_dir)


def _pressure(resource: str, root: Path, cgroup_dir: Path | None) -> Pressure | None:
    path = root / "proc/pressure" / resource if cgroup_dir is None else cgroup_dir / f"{resource}.pressure"
    # A kernel booted with psi=0 may keep the file and refuse to read it.
    return parse_pressure(read_text(path) or "")


def parse_pressure(text: str) -> Pressure | None:
    """The two lines of a pressure file; None when there is no "some" line."""
    stalls: dict[str, Stall] = {}
    for line in text.splitlines():
        kind, *pairs = line.split() or [""]
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        try:
            stalls[kind] = Stall(float(values["avg10"]), float(values["avg60"]), int(values["total"]))
        except (KeyError, ValueError):
            continue
    # Kernels before 5.13 have no "full" line for the CPU.
    return Pressure(stalls["some"], stalls.get("full", Stall())) if "some" in stalls else None
