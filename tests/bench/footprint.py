"""What the product costs when it does nothing: CPU time of commands, memory and idle CPU of the supervisor.

Each run has a fresh process. The supervisor has HTTP, mDNS and a connected MQTT broker; its worker, no part
of the figures, holds the scripted engine instead of a model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.conditions import EDGED, START_LIMIT_S
from tests.bench.errors import BenchError
from tests.bench.figures import Report
from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import Daemon, wait_until
from tests.kit.service import fake_model, fake_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.options import Options

RUNS = 3
IDLE_S = 20
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# name → (target, unit); each target is a promise of the README.
TARGETS = {
    "edgectl --help, CPU": (0.3, "s"),
    "edgectl plan, CPU": (0.5, "s"),
    "supervisor, memory": (45.0, "MiB"),
    "supervisor, idle CPU": (1.0, "%"),
}


def edgectl_cpu_s(*words: str) -> float:
    """User and system time of one `edgectl` with ``words``, in seconds."""
    command = [sys.executable, "-m", "edgectl", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    # A plan for a computer on which nothing fits is a plan as well.
    assert process.returncode in (0, 3), f"edgectl {words[0]} ended with {process.returncode}"
    return usage.ru_utime + usage.ru_stime


def supervisor(folder: Path, broker: Broker, idle_s: float) -> tuple[float, float]:
    """(resident MiB, idle CPU in percent of one core) of one fresh daemon."""
    tree = fake_tree(fake_model(folder))
    tree |= {"mqtt": {"enabled": True, "port": broker.port}, "discovery": {"enabled": True}}
    daemon = Daemon(tree, folder)
    connected = connections(broker)
    try:
        daemon.start(ready=False)
        wait_until(daemon.ready, "edged to be ready", START_LIMIT_S)
        wait_until(lambda: connections(broker) > connected, "MQTT to be connected")
        time.sleep(2)  # what starting left to do is done
        before_s, begun = cpu_s(daemon.pid), time.monotonic()
        time.sleep(idle_s)
        share = (cpu_s(daemon.pid) - before_s) / (time.monotonic() - begun)
        return resident_mib(daemon.pid), 100 * share
    finally:
        daemon.stop()


def connections(broker: Broker) -> int:
    """How often a client has connected, by the broker's log."""
    return broker.log.read_text().count("New client connected")


def cpu_s(pid: int) -> float:
    """User and system time so far; fields 14 and 15 of /proc/PID/stat, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mib(pid: int) -> float:
    """RssAnon + RssFile, the pages of its own and those of files, shared libraries among them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssFile:"))) / 1024


def run(options: Options) -> Iterator[Report]:
    if MOSQUITTO is None:
        raise BenchError("mosquitto is not installed: apt install mosquitto")
    report = Report(scenario="footprint", title="What it costs when it does nothing")
    figures = {
        name: report.figure(name, unit, at_most={EDGED: target}) for name, (target, unit) in TARGETS.items()
    }
    rounds = options.rounds_of(RUNS)
    for word in ("--help", "plan"):
        edgectl_cpu_s(word)  # byte code is compiled and files are cached
        for _ in range(rounds):
            figures[f"edgectl {word}, CPU"].add(EDGED, edgectl_cpu_s(word))
    with Broker(options.folder) as broker:
        for number in range(rounds):
            folder = options.folder / str(number)
            folder.mkdir()
            memory_mib, idle_percent = supervisor(folder, broker, options.count(IDLE_S, 2))
            figures["supervisor, memory"].add(EDGED, memory_mib)
            figures["supervisor, idle CPU"].add(EDGED, idle_percent)
    yield report
