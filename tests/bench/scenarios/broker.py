"""What a message, a connection and a message in a queue cost mosquitto: the figures of docs/scaling.md."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.errors import BenchError
from tests.bench.figures import Report
from tests.bench.options import say
from tests.bench.raw_mqtt import PUBACK, RawClient
from tests.integration.broker import MOSQUITTO
from tests.kit.daemon import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.options import Options

SIZES = {"256 B": 256, "4 KiB": 4096, "64 KiB": 65536}
MESSAGES = 5000
CONNECTIONS = 2000
QUEUED = 10_000
ROUNDS = 3


def run(options: Options) -> Iterator[Report]:
    report = Report(scenario="broker", title="What mosquitto takes for a message, a connection, a queue")
    cpu = report.figure("processor time of a message, one at a time, to one subscriber", "µs")
    sign = report.figure("processor time of what a device does besides", "µs")
    connection = report.figure("memory of an idle connection with one subscription", "KiB")
    queued = report.figure("memory of a message that waits for an absent session", "KiB")
    for number in range(options.rounds_of(ROUNDS)):
        say(f"round {number + 1}: {report.title}")
        with mosquitto(options.folder) as (process, port):
            count = options.count(MESSAGES, 100)
            for name, size in SIZES.items():
                for qos in (1, 0):
                    cpu.add(f"QoS {qos}, {name}", 1e6 * _message_s(process, port, size, qos, count))
        with mosquitto(options.folder) as (process, port):
            count = options.count(CONNECTIONS, 50)
            kib, connect_s, ping_s = _connections(process, port, count)
            connection.add("mosquitto", kib)
            sign.add("connect and subscribe", 1e6 * connect_s)
            sign.add("sign of life", 1e6 * ping_s)
        for name in ("256 B", "4 KiB"):
            with mosquitto(options.folder) as (process, port):
                count = options.count(QUEUED, 200)
                queued.add(name, _queued_kib(process, port, SIZES[name], count))
    version = subprocess.run([MOSQUITTO or "", "-h"], capture_output=True, text=True, check=False).stdout
    report.settings["broker"] = version.splitlines()[0] if version else "mosquitto"
    report.note(
        "a message: PUBLISH in, PUBLISH out and at QoS 1 both PUBACKs, each packet in a read of its own"
    )
    yield report


@contextlib.contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A broker that logs nothing and keeps nothing; raises BenchError where there is none."""
    if not MOSQUITTO:
        raise BenchError("mosquitto is not installed")
    port = free_port()
    config = folder / "mosquitto.conf"
    root = ("user root",) if os.geteuid() == 0 else ()
    rules = (
        "allow_anonymous true",
        "log_type none",
        "max_queued_messages 0",
        "sys_interval 1",
        *root,
        *lines,
    )
    config.write_text("\n".join([f"listener {port} 127.0.0.1", *rules, ""]))
    process = subprocess.Popen([MOSQUITTO, "-c", config], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), "mosquitto to listen", 10)
        yield process, port
    finally:
        process.terminate()
        process.wait(10)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Processor time of a process so far."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9


def _listens(port: int) -> bool:
    try:
        RawClient(port, "probe").close()
    except OSError:
        return False
    return True


def _message_s(process: subprocess.Popen[bytes], port: int, size: int, qos: int, count: int) -> float:
    with RawClient(port, "out") as publisher, RawClient(port, "in") as subscriber:
        subscriber.subscribe("bench/+", qos)
        payload = bytes(size)
        before_s = cpu_s(process)
        for _ in range(count):
            publisher.publish("bench/one", payload, qos=qos)
            subscriber.take(qos=qos)
            if qos:
                publisher.expect(PUBACK)
        return (cpu_s(process) - before_s) / count


def _connections(process: subprocess.Popen[bytes], port: int, count: int) -> tuple[float, float, float]:
    """KiB, seconds for its making, and seconds for a PINGREQ, each for one of so many connections."""
    with contextlib.ExitStack() as stack:
        before_kib, before_s = _resident_kib(process), cpu_s(process)
        devices = []
        for number in range(count):
            devices.append(stack.enter_context(RawClient(port, f"device-{number}")))
            devices[-1].subscribe(f"edged/pool/response/device-{number}/+", 1)
        kib, made_s = _resident_kib(process) - before_kib, cpu_s(process)
        for device in devices:
            device.ping()
        return kib / count, (made_s - before_s) / count, (cpu_s(process) - made_s) / count


def _queued_kib(process: subprocess.Popen[bytes], port: int, size: int, count: int) -> float:
    with RawClient(port, "absent", clean=False) as absent:
        absent.subscribe("bench/+", 1)
    with RawClient(port, "out") as publisher:
        before_kib = _resident_kib(process)
        for _ in range(count):
            publisher.publish("bench/one", bytes(size))
            publisher.expect(PUBACK)
        return (_resident_kib(process) - before_kib) / count


def _resident_kib(process: subprocess.Popen[bytes]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1])
    raise BenchError("the kernel does not tell what mosquitto takes")
