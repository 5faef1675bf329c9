"""Measures what the product costs when it does nothing, and fails above the targets: `make bench`.

Medians of three runs, each with a fresh process: CPU time of `edgectl --help` and `edgectl plan`; memory and
idle CPU of the supervisor with HTTP, mDNS and a connected MQTT broker, while its worker (no part of the
figures) holds the scripted engine instead of a model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import Daemon, wait_until
from tests.kit.service import fake_model, fake_tree

RUNS = 3
IDLE_S = 20.0
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
        daemon.start()
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


def measure(idle_s: float) -> dict[str, list[float]]:
    """Every run of every figure of TARGETS."""
    for word in ("--help", "plan"):
        edgectl_cpu_s(word)  # byte code is compiled and files are cached
    figures: dict[str, list[float]] = {name: [] for name in TARGETS}
    figures["edgectl --help, CPU"] = [edgectl_cpu_s("--help") for _ in range(RUNS)]
    figures["edgectl plan, CPU"] = [edgectl_cpu_s("plan") for _ in range(RUNS)]
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as parent, Broker(Path(parent)) as broker:
        for run in range(RUNS):
            folder = Path(parent) / str(run)
            folder.mkdir()
            memory_mib, idle_percent = supervisor(folder, broker, idle_s)
            figures["supervisor, memory"].append(memory_mib)
            figures["supervisor, idle CPU"].append(idle_percent)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--idle", type=float, default=IDLE_S, metavar="S", help="seconds to watch idle CPU")
    options = parser.parse_args()
    if MOSQUITTO is None:
        parser.error("mosquitto is not installed: apt install mosquitto")
    figures = measure(options.idle)
    over = [name for name, runs in figures.items() if statistics.median(runs) > TARGETS[name][0]]
    if options.json:
        print(json.dumps({name: {"runs": runs, "target": TARGETS[name][0], "unit": TARGETS[name][1]}
                          for name, runs in figures.items()}, indent=2))  # fmt: skip
    else:
        for name, runs in figures.items():
            target, unit = TARGETS[name]
            verdict = "over the target" if name in over else "ok"
            print(f"{name:<22} {statistics.median(runs):7.2f} {unit:<4} target {target:g} {unit}: {verdict}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
