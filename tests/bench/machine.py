"""The computer a bench runs on, and what else it does meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
from msgspec import Struct

from edged import __version__
from edged.host.cpus import compute_threads
from edged.host.procfs import meminfo

WATCH_S = 1.0
QUIET_PERCENT = 5.0  # of all cores, used by others; more than that moves medians


class Load(Struct, frozen=True, kw_only=True):
    """What others used while the bench slept, in percent of all cores; ``stolen`` went to other guests."""

    average: float  # the kernel's, over one minute: at the end of a bench it holds the bench itself
    busy_percent: float
    stolen_percent: float
    busiest: str  # names of the processes that used most of it

    @property
    def quiet(self) -> bool:
        return self.busy_percent + self.stolen_percent <= QUIET_PERCENT

    def __str__(self) -> str:
        others = f" ({self.busiest})" if self.busiest and not self.quiet else ""
        return (
            f"others use {self.busy_percent:.0f}% of the CPUs{others}, {self.stolen_percent:.0f}% is stolen, "
            f"load average {self.average:.2f}"
        )


def watch(seconds: float = WATCH_S) -> Load:
    """Look at the computer for ``seconds`` while this process sleeps."""
    processes = list(psutil.process_iter(["name"]))
    for process in processes:
        _percent(process)
    times = psutil.cpu_times_percent(seconds)
    used = sorted(((_percent(process), process.info["name"]) for process in processes), reverse=True)
    return Load(
        average=os.getloadavg()[0],
        busy_percent=100 - times.idle - times.iowait - times.steal,
        stolen_percent=times.steal,
        busiest=", ".join(f"{name} {percent:.0f}%" for percent, name in used[:3] if percent >= 1),
    )


def describe() -> dict[str, str]:
    """What a reader must know to compare figures."""
    return {
        "cpu": f"{cpu_name()}, {os.cpu_count()} CPUs, {compute_threads()} threads of computation",
        "memory": f"{meminfo().total_bytes / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "edged": f"{__version__}, {_commit()}, with llama-cpp-python {version('llama-cpp-python')}",
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """Of this checkout; figures of one with changes cannot be repeated, so it says so."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "no checkout"


def _percent(process: psutil.Process) -> float:
    """Of one core, since the last look; 0 for a process that is gone."""
    try:
        return process.cpu_percent()
    except psutil.Error:
        return 0.0
