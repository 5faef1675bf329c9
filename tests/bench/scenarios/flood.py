"""A thousand MQTT clients, and requests at fifty times what the box can answer: memory, refusals, answers.

The engine is the scripted one with a fixed time a token, so that two cores suffice for box, broker and crowd.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from edged.host.procfs import process_memory
from tests.bench.errors import BenchError
from tests.bench.figures import Report
from tests.bench.options import say
from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import running_daemon
from tests.kit.mqtt_crowd import Crowd, allow_files
from tests.kit.service import fake_model, fake_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.options import Options
    from tests.kit.daemon import Daemon

CLIENTS = 1000
REQUESTS = 10_000
TIMES = 50
SLOTS = 4
STEP_S = 0.01
ANSWER = "0 1 2 3 4 5 6 7 8 9 "  # letters are tokens; with the step that reads the prompt an answer takes 21
PER_S = SLOTS / (STEP_S * (len(ANSWER) + 1))  # answers a second that the box could give at most
GROWTH_MIB = 16.0
REFUSAL_MS = 50.0
IDLE_MS = 10.0  # of CPU a second: the promise of the README, 1 % of a core
IDLE_S = 10.0
IDLE_CLIENTS = (0, 100, 1000)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
EDGED = "edged"


def run(options: Options) -> Iterator[Report]:
    if MOSQUITTO is None:
        raise BenchError("mosquitto is not installed")
    allow_files(options.count(CLIENTS, 50))
    clients, requests = options.count(CLIENTS, 50), options.count(REQUESTS, 300)
    report = Report(
        scenario="flood",
        title=f"{clients} MQTT clients, {requests} requests at {TIMES} times the capacity",
        settings={
            "engine": f"scripted, {SLOTS} slots, {STEP_S * 1000:.0f} ms a step, {PER_S:.0f} answers a second",
            "queue": "32 requests, the default",
        },
    )
    tree = fake_tree(
        fake_model(options.folder, answer=ANSWER, step_s=STEP_S),
        model={"slots": SLOTS},
        mqtt={"enabled": True},
    )
    with Broker(options.folder, "allow_anonymous true", "max_queued_messages 0") as broker:
        tree["mqtt"]["port"] = broker.port
        with running_daemon(tree, options.folder) as daemon:
            asyncio.run(_idle(report, daemon, broker.port, 0.5 if options.quick else IDLE_S))
            asyncio.run(_flood(report, daemon, broker.port, clients, requests))
    yield report


async def _idle(report: Report, daemon: Daemon, port: int, seconds: float) -> None:
    """What clients that are connected and silent cost the box."""
    figure = report.figure(
        "idle CPU of the supervisor", "ms/s", at_most={_silent(count): IDLE_MS for count in IDLE_CLIENTS}
    )
    for count in IDLE_CLIENTS:
        async with Crowd(port, "box", count, name="silent"):
            say(f"{count} silent clients: {report.title}")
            before = cpu_s(daemon.pid)
            await asyncio.sleep(seconds)
            figure.add(_silent(count), (cpu_s(daemon.pid) - before) / seconds * 1000)


def _silent(count: int) -> str:
    return f"{count} clients connected"


async def _flood(report: Report, daemon: Daemon, port: int, clients: int, requests: int) -> None:
    async with Crowd(port, "box", clients) as crowd:
        crowd.ask(-1)  # so that everything that is loaded at the first request is
        await crowd.answered()
        before = resident_mib(daemon.pid)
        say(report.title)
        peak = Peak(daemon.pid)
        watching = asyncio.create_task(peak.watch())
        cpu, began = cpu_s(daemon.pid), time.monotonic()
        await crowd.flood(requests, TIMES * PER_S)
        took_s = time.monotonic() - began
        cpu = cpu_s(daemon.pid) - cpu
        await crowd.answered()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        most = peak.mib
        answers = crowd.answers()
    refused, answered = _judge(report, crowd.sent, answers)
    growth = report.figure("resident growth of the supervisor", "MiB", at_most={EDGED: GROWTH_MIB})
    growth.add(EDGED, most - before)
    times = report.figure("from publish to the refusal's arrival", "ms", at_most={"p99": REFUSAL_MS})
    if len(refused) > 1:
        cuts = quantiles(refused, n=100)
        times.add("median", cuts[49])
        times.add("p99", cuts[98])
    report.settings["requests"] = (
        f"{requests} in {took_s:.1f} s; {len(refused)} refused, {answered} accepted and answered"
    )
    report.settings["supervisor"] = (
        f"{before:.1f} MiB before, {most:.1f} MiB at most; {cpu / requests * 1e6:.0f} µs of CPU a request"
    )


def _judge(report: Report, sent: dict[str, float], answers: dict[str, list[Any]]) -> tuple[list[float], int]:
    """Milliseconds of each refusal, and how many requests were answered; what must not be is a figure."""
    refused: list[float] = []
    answered = without = other = 0
    for name, came in answers.items():
        for when, message in came[:1]:
            if message["ok"]:
                answered += 1
            else:
                error = message["error"]
                other += error["code"] != "busy"
                without += not error.get("retry_after_s")
                refused.append((when - sent[name]) * 1000)
    counts = {
        "requests without an answer": sum(not came for came in answers.values()),
        "requests with more than one answer": sum(len(came) > 1 for came in answers.values()),
        "refusals without retry_after": without,
        "refusals other than busy": other,
    }
    for name, count in counts.items():
        report.figure(name, "count", at_most={EDGED: 0}).add(EDGED, count)
    return refused, answered


class Peak:
    """The most memory that a process was seen with."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.mib = resident_mib(pid)

    async def watch(self) -> None:
        """Look ten times a second until cancelled."""
        while True:
            self.mib = max(self.mib, resident_mib(self._pid))
            await asyncio.sleep(0.1)


def resident_mib(pid: int) -> float:
    """What a process has in memory, shared pages included."""
    memory = process_memory(pid)
    if memory is None:
        raise BenchError("the daemon is gone")
    return (memory.rss_anon_bytes + memory.rss_file_bytes) / (1 << 20)


def cpu_s(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
