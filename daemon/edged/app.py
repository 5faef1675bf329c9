"""Wires the daemon together and runs it: start order, one watch a second, signals, a bounded stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING

from edged.api.errors import Draining
from edged.api.status import EngineState, MqttStatus
from edged.engine.supervisor import EngineSupervisor
from edged.guard.policy import GuardPolicy, Verdict
from edged.guard.sampler import Sampler
from edged.guard.strain import read_strain
from edged.host import sdnotify
from edged.host.leaf import make_leaf
from edged.host.paths import JOBS
from edged.host.start_up import StartUp
from edged.host.switched import with_switched
from edged.scheduling.intake import IntakePolicy
from edged.service import EdgeService

if TYPE_CHECKING:
    from pathlib import Path

    from edged.api.config import Config
    from edged.api.status import Condition
    from edged.maintenance.runner import Jobs
    from edged.transports.discovery import Discovery
    from edged.transports.http import HttpTransport
    from edged.transports.mqtt import MqttTransport
    from edged.transports.mqtt.board import Board

log = logging.getLogger("edged")

TICK_S = 1.0
STRAIN_S = 5.0  # between two looks at heat; ACPI takes some milliseconds to tell it
DRAIN_S = 15.0  # running answers may finish; the unit's TimeoutStopSec is larger
STAGE_S = 5.0  # any other stage of the stop


class App:
    """One run of the daemon. ``run`` returns when it has been told to stop and has stopped."""

    def __init__(self, configured: Config, state_dir: Path, config_path: Path) -> None:
        config = with_switched(configured, state_dir)
        self._config = config
        leaf = make_leaf(config.memory.cgroup_max_mib << 20)
        self._sampler = Sampler(config.memory, leaf=leaf.name)
        self.service = EdgeService(config, sampler=self._sampler)
        self._engine = EngineSupervisor(
            config, state_dir=state_dir, place=leaf.place, on_change=self._engine_changed
        )
        self.service.attach(self._engine)
        self.service.report(self._conditions, self._mqtt_status)
        self._policy = GuardPolicy()
        self.http = _http(config, self.service) if config.http.enabled else None
        self._jobs: Jobs | None = None
        if config.mqtt.enabled and config.mqtt.jobs:
            self._jobs = _jobs(self._engine, self.service, configured, config_path, state_dir)
        self.mqtt = (
            _mqtt(config, self.service, self._engine, self._jobs, state_dir) if config.mqtt.enabled else None
        )
        self.discovery = _discovery(config, self.service) if config.discovery.enabled else None
        self._stopping = asyncio.Event()
        self._start = StartUp(time.monotonic)

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or ``stop``."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        tasks: list[asyncio.Task[None]] = []
        try:
            if self.http:
                await self.http.start()
            if self.mqtt:
                await self.mqtt.start()
            if self.discovery:
                await self.discovery.start(self.http.address[1] if self.http else None)
            tasks = [
                asyncio.create_task(self._engine.run(), name="engine"),
                asyncio.create_task(self._tick(), name="tick"),
                asyncio.create_task(self._watch_strain(), name="strain"),
                asyncio.create_task(self._watchdog(), name="watchdog"),
                asyncio.create_task(self._stopping.wait(), name="stop"),  # type: ignore[arg-type]
            ]
            if self._jobs:
                tasks.append(asyncio.create_task(self._jobs.run(), name="jobs"))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a task that ended by itself is a defect, and must be seen
        finally:
            await self._shut_down(tasks)

    def stop(self) -> None:
        """Begin the stop; safe to repeat."""
        self._stopping.set()

    # --- while running --------------------------------------------------------------------

    def _engine_changed(self) -> None:
        self.service.dispatch()
        state = self._engine.state
        text = {
            EngineState.READY: "ready",
            EngineState.BACKOFF: f"engine failed: {self._engine.last_error}",
            EngineState.BROKEN: f"engine broken: {self._engine.last_error}",
        }.get(state, f"engine {state}")
        sdnotify.notify(f"STATUS={text}")
        if state is EngineState.READY and self._start.ready():
            log.info("ready: one token was produced")
        if self.mqtt:
            self.mqtt.service_changed()

    async def _tick(self) -> None:
        """Once a second: expire what waited too long, look at memory, act on it."""
        while True:
            await asyncio.sleep(TICK_S)
            self.service.expire()
            if self._engine.failing:
                self._start.failing()
            try:
                sample = self._sampler.sample(self._engine.worker_pid)
            except OSError as error:  # no file descriptor left, say: a second without a look at memory
                log.warning("memory cannot be read: %s", error)
                continue
            decision = self._policy.step(sample)
            self.service.shed(decision.why if decision.verdict is not Verdict.OK else "")
            self._engine.cache(allowed=decision.verdict is Verdict.OK)
            if decision.verdict is Verdict.RECYCLE:
                self._engine.recycle(decision.why)

    async def _watch_strain(self) -> None:
        """Let in as much work as heat, power and memory allow."""
        policy = IntakePolicy()
        while True:
            try:
                self.service.let_in(policy.sample(time.monotonic(), read_strain()))
            except OSError as error:  # as in _tick
                log.warning("heat cannot be read: %s", error)
            await asyncio.sleep(STRAIN_S)

    async def _watchdog(self) -> None:
        """Tell systemd that the event loop turns; silence for WatchdogSec restarts us."""
        interval_s = sdnotify.watchdog_interval_s()
        while interval_s:
            sdnotify.notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)
        await asyncio.Event().wait()

    def _mqtt_status(self) -> MqttStatus | None:
        if self.mqtt is None:
            return None
        topic = f"{self._config.mqtt.base}/{self._config.node}"
        waiting, lost = self.mqtt.outbox
        return MqttStatus(
            connected=self.mqtt.connected,
            broker=self.mqtt.address,
            topic=topic,
            outbox=waiting,
            lost=lost,
            pool=self.mqtt.pool,
        )

    def _conditions(self) -> list[Condition]:
        sources = (self.http, self.discovery)
        found = [source.condition() for source in sources if source]
        return [*(self.mqtt.conditions() if self.mqtt else ()), *(one for one in found if one)]

    # --- the stop, stage by stage, each bounded -------------------------------------------

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        sdnotify.notify("STOPPING=1\nSTATUS=finishing the answers under way")
        self.service.drain()
        transports = [transport for transport in (self.mqtt, self.http) if transport]
        # New requests stop first, so that what is running can end; then the rest is told why it ends.
        await _stage("drain", STAGE_S, *(transport.drain() for transport in transports))
        ready = self._engine.state is EngineState.READY  # else what waits would wait for another worker
        await _stage("answers", DRAIN_S, self.service.idle.wait() if ready else self._engine.idle())
        self.service.fail_all(Draining("the daemon is stopping", retry_after_s=10.0))
        if self.discovery:
            await _stage("discovery", STAGE_S, self.discovery.stop())
        await _stage("transports", STAGE_S, *(transport.stop() for transport in transports))
        for task in tasks:
            task.cancel()
        await _stage("engine", STAGE_S, asyncio.gather(*tasks, return_exceptions=True))
        log.info("stopped")


# What is switched off costs no memory: each transport is imported when it is wanted.


def _http(config: Config, service: EdgeService) -> HttpTransport:
    from edged.transports.http import HttpTransport  # noqa: PLC0415

    return HttpTransport(config.http, service)


def _mqtt(
    config: Config, service: EdgeService, engine: EngineSupervisor, jobs: Jobs | None, state_dir: Path
) -> MqttTransport:
    from edged.transports.mqtt import MqttTransport  # noqa: PLC0415
    from edged.transports.mqtt.topics import ANNOUNCED, Topics  # noqa: PLC0415

    topics = Topics(config.mqtt.base, config.node)
    boards: list[Board] = []
    if jobs is not None:
        from edged.transports.mqtt.jobs import JobBoard  # noqa: PLC0415

        boards.append(JobBoard(topics, jobs))
    elif (journal := state_dir / JOBS).exists():
        from edged.maintenance import left_jobs  # noqa: PLC0415
        from edged.transports.mqtt.left_jobs import LeftJobs  # noqa: PLC0415

        boards.append(LeftJobs(topics, left_jobs(state_dir), journal))
    if config.mqtt.home_assistant:
        from edged.transports.mqtt.home_assistant import HomeAssistant  # noqa: PLC0415

        buttons = {"unload": engine.wishes.unload, "reload": engine.wishes.reload}
        shown = config.mqtt.last_answer
        boards.append(HomeAssistant(topics, service, buttons, state_dir=state_dir, last_answer=shown))
    elif (state_dir / ANNOUNCED).exists():
        from edged.transports.mqtt.home_assistant import Withdrawal  # noqa: PLC0415

        boards.append(Withdrawal(state_dir))
    return MqttTransport(config.mqtt, config.node, service, boards=boards, pool=config.pool)


def _jobs(
    engine: EngineSupervisor, service: EdgeService, configured: Config, config_path: Path, state_dir: Path
) -> Jobs:
    from edged.maintenance import make_jobs  # noqa: PLC0415

    def held_bytes() -> int:
        memory = service.status().memory
        return memory.worker_anon_bytes + memory.worker_swap_bytes

    return make_jobs(engine, configured, config_path=config_path, state_dir=state_dir, held_bytes=held_bytes)


def _discovery(config: Config, service: EdgeService) -> Discovery:
    from edged.transports.discovery import Discovery  # noqa: PLC0415

    return Discovery(config, service)


async def _stage(name: str, limit_s: float, *work: object) -> None:
    """Await all of ``work`` for at most ``limit_s``; what fails or hangs is logged and left behind."""
    with contextlib.suppress(asyncio.CancelledError):
        try:
            async with asyncio.timeout(limit_s):
                results = await asyncio.gather(*work, return_exceptions=True)  # type: ignore[call-overload]
        except TimeoutError:
            log.warning("stop: %s not done after %.0f s, going on", name, limit_s)
            return
        for result in results:
            if isinstance(result, Exception):
                log.error("stop: %s: %r", name, result)
