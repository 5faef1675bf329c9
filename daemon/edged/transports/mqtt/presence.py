"""The retained topics that tell others about this box: status, info, health.

``status`` is ``online`` when a request sent now will be answered: connected and the model ready. While
a model loads, while the daemon drains, and by the will, it is ``offline``. A device that reads it needs
no second topic; ``health`` has the reasons.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edged.api.status import ServiceState
from edged.host.pressure import memory_pressure
from edged.host.thermal import hottest_zone, throttling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edged.api.status import Status
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.topics import Topics
    from edged.transports.port import Service

HEALTH_INTERVAL_S = 10.0  # a dashboard's pace; each message wakes every subscriber
HEALTH_REPEAT_S = 60.0  # even when nothing changed, so that `ts` shows that somebody is alive
ONLINE, OFFLINE = b"online", b"offline"


class Presence:
    """Publishes what changed, and nothing twice on one connection."""

    def __init__(
        self,
        topics: Topics,
        service: Service,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sense: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._topics = topics
        self._service = service
        self._clock = clock
        self._wall = wall
        self._sense = sense or sense_host
        self._said: dict[str, bytes] = {}
        self._health_at_s: float | None = None
        self.leaving = False  # a stop has begun

    def forget(self) -> None:
        """A new connection: the broker may have lost what it retained, so all is said again."""
        self._said.clear()
        self._health_at_s = None

    async def tell(self, connection: Connection) -> None:
        """Publish status and info if they changed."""
        if self._online:  # info first: who sees "online" may read the limits at once
            await self._say(connection, self._topics.info, msgspec.json.encode(self._service.info()))
        await self._say(connection, self._topics.status, ONLINE if self._online else OFFLINE)

    @property
    def _online(self) -> bool:
        return self._service.ready and not self.leaving

    def tell_health(self, connection: Connection) -> None:
        """Publish health when it changed or a minute went by; called each HEALTH_INTERVAL_S."""
        facts = health(self._service.status(), self._service.capacity) | dict(self._sense())
        body = msgspec.json.encode(facts)
        now_s = self._clock()
        old = self._health_at_s is None or now_s - self._health_at_s >= HEALTH_REPEAT_S
        if old or body != self._said.get(self._topics.health):
            payload = msgspec.json.encode(facts | {"ts": int(self._wall())})
            if connection.send(self._topics.health, payload, retain=True):
                self._said[self._topics.health] = body
                self._health_at_s = now_s

    async def _say(self, connection: Connection, topic: str, payload: bytes) -> None:
        if self._said.get(topic) == payload:
            return
        self._said[topic] = payload
        if await connection.deliver(topic, payload, retain=True) is None:
            self._said.pop(topic, None)


def health(status: Status, capacity: int) -> dict[str, Any]:
    """The picture for dashboards; memory in bytes, speed in tokens a second of one answer."""
    memory = status.memory
    return {
        "state": _state(status, capacity),
        "queue": status.queue,
        "running": status.running,
        "tok_s": None if status.decode_tps is None else round(status.decode_tps, 1),
        "mem": {
            "anon": memory.worker_anon_bytes,
            "swap": memory.worker_swap_bytes,
            "limit": memory.budget_bytes,
        },
        "conditions": [condition.code for condition in status.conditions],
    }


def sense_host() -> dict[str, Any]:
    """Heat, throttling and memory pressure of this computer; null where it has no sensor."""
    zone, throttle, pressure = hottest_zone(), throttling(), memory_pressure()
    return {
        "temp_c": None if zone is None else round(zone.celsius),
        "throttled": None if throttle is None else list(throttle.now),
        "psi_mem": None if pressure is None else pressure.some.avg10,
    }


def _state(status: Status, capacity: int) -> Literal["ok", "degraded", "loading", "overloaded"]:
    if status.state in {ServiceState.STARTING, ServiceState.LOADING}:
        return "loading"
    if status.queue + status.running >= capacity:
        return "overloaded"
    return "ok" if status.state is ServiceState.READY and not status.conditions else "degraded"
