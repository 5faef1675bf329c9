"""`python -m edged.measure`: load a model in a real worker, time workloads, watch its memory, leave.

One order as JSON on standard input, one JSON object a line on standard output: ``loaded``, then
``measured`` for each workload, or ``failed`` and nothing more. It stops at the first sign of
pressure, so that measuring never starves the machine it measures.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Literal

import msgspec
from msgspec import Struct, structs

from edged.api.measuring import Event, Failure, Loaded, Peak, Result, Workload
from edged.engine.process import Worker, WorkerLost
from edged.host.orphans import die_with_parent
from edged.host.pressure import memory_pressure
from edged.host.procfs import ProcessMemory, meminfo, process_memory
from edged.ipc.frames import FrameError
from edged.ipc.messages import EngineOptions, Load, Measure

SAMPLE_S = 0.05  # a decode step of the smallest model takes about as long
PRESSURE_PERCENT = 10.0  # PSI "full" over 10 s: the machine has begun to stand still
HANG_S = 60.0
NOTHING = ProcessMemory(0, 0, 0, 0, 0)


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure. The run ends when the host has less than ``min_available_bytes`` left."""

    path: str
    options: EngineOptions
    workloads: tuple[Workload, ...] = ()
    backend: Literal["llama", "fake"] = "llama"
    min_available_bytes: int = 0
    limit_s: float = 600.0


class Squeezed(Exception):
    """The host runs short of memory."""


def main() -> None:
    """Exit status 0 when everything was measured, 1 when it failed, 2 for an order that is none."""
    die_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="level=%(levelname)s %(message)s")
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    except msgspec.DecodeError as error:
        print(f"not an order: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(asyncio.run(_main(order)))


async def _main(order: Order) -> int:
    run = asyncio.create_task(Measurement(order).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.cancel)
    try:
        return await run
    except asyncio.CancelledError:
        return 128 + signal.SIGINT


class Measurement:
    """One order, carried out once."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._peak = Peak()

    async def run(self) -> int:
        """Write the results; the exit status."""
        try:
            async with asyncio.timeout(self._order.limit_s):
                await self._measure()
        except TimeoutError:
            return self._fail("timeout", f"not done after {self._order.limit_s:.0f} s")
        except Squeezed as error:
            return self._fail("pressure", str(error))
        except (WorkerLost, OSError, EOFError, FrameError) as error:
            return self._fail("lost", str(error))
        return 0

    async def _measure(self) -> None:
        worker = await Worker.spawn(lambda _pid: None)
        watch = asyncio.create_task(self._watch(worker.pid))
        work = asyncio.create_task(self._work(worker))
        try:
            done, _ = await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except EOFError as error:
            raise WorkerLost(f"the engine process ended: {await worker.cause()}") from error
        finally:
            for task in (watch, work):
                task.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)
            await worker.kill()

    async def _work(self, worker: Worker) -> None:
        order = self._order
        load = Load(path=order.path, backend=order.backend, options=order.options)
        ready = await worker.load(load, load_timeout_s=order.limit_s, hang_timeout_s=HANG_S)
        self._sample(worker.pid)
        emit(Loaded(load_ms=ready.load_ms, first_token_ms=ready.first_token_ms, peak=self._peak))
        for workload in order.workloads:
            measure = Measure(**structs.asdict(workload))
            measured = await worker.measure(measure, limit_s=order.limit_s, hang_timeout_s=HANG_S)
            self._sample(worker.pid)
            emit(Result(workload=workload, measured=measured, peak=self._peak))

    async def _watch(self, pid: int) -> None:
        """Sample the worker's memory; raises Squeezed when the host runs short."""
        while True:
            self._sample(pid)
            available = meminfo().available_bytes
            if available < self._order.min_available_bytes:
                raise Squeezed(f"only {available >> 20} MiB of the host's memory are available")
            pressure = memory_pressure()
            if pressure is not None and pressure.full.avg10 > PRESSURE_PERCENT:
                raise Squeezed(f"memory pressure: {pressure.full.avg10:.0f}% of the last 10 s stood still")
            await asyncio.sleep(SAMPLE_S)

    def _sample(self, pid: int) -> None:
        memory = process_memory(pid) or NOTHING
        total = memory.rss_anon_bytes + memory.rss_file_bytes + memory.swap_bytes
        self._peak = Peak(
            anon_bytes=max(self._peak.anon_bytes, memory.rss_anon_bytes),
            file_bytes=max(self._peak.file_bytes, memory.rss_file_bytes),
            swap_bytes=max(self._peak.swap_bytes, memory.swap_bytes),
            total_bytes=max(self._peak.total_bytes, total),
        )

    def _fail(self, code: str, message: str) -> int:
        emit(Failure(code=code, message=message, peak=self._peak))
        return 1


def emit(event: Event) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(event) + b"\n")


if __name__ == "__main__":
    main()
