"""The retained topics that tell others about this box: status, info, health.

``status`` is ``online`` when a request sent now will be answered: connected and the model ready. While
a model loads, while the daemon drains, and by the will, it is ``offline``. A device that reads it needs
no second topic; ``health`` has the reasons.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from edged.api.status import EngineState

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.api.status import Status
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.topics import Topics
    from edged.transports.port import Service

HEALTH_LOOK_S = 1.0  # so soon others hear that something is wrong
HEALTH_INTERVAL_S = 10.0  # a dashboard's pace for figures; each message wakes every subscriber
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
    ) -> None:
        self._topics = topics
        self._service = service
        self._clock = clock
        self._wall = wall
        self._said: dict[str, bytes] = {}
        self._health_at_s: float | None = None
        self._look_at_s = 0.0  # when figures are looked at again
        self._health_told: object = None  # state and conditions, which do not wait
        self.leaving = False  # a stop has begun

    def forget(self) -> None:
        """A new connection: the broker may have lost what it retained, so all is said again."""
        self._said.clear()
        self._health_at_s = None
        self._health_told = None

    async def tell(self, connection: Connection) -> None:
        """Publish status and info if they changed."""
        if self._online:  # info first: who sees "online" may read the limits at once
            await self._say(connection, self._topics.info, msgspec.json.encode(self._service.info()))
        await self._say(connection, self._topics.status, ONLINE if self._online else OFFLINE)

    @property
    def _online(self) -> bool:
        return self._service.ready and not self.leaving

    def tell_health(self, connection: Connection) -> None:
        """Publish health if it is news; called each HEALTH_LOOK_S.

        Another state or condition is told at once, other figures that changed after HEALTH_INTERVAL_S, and
        after HEALTH_REPEAT_S everything, so that `ts` shows that somebody is alive.
        """
        facts = health(self._service.status())
        news = (facts["state"], facts["conditions"], facts["loaded"])
        now_s = self._clock()
        if news == self._health_told and now_s < self._look_at_s:
            return
        self._look_at_s = now_s + HEALTH_INTERVAL_S
        body = msgspec.json.encode(facts)
        old = self._health_at_s is None or now_s - self._health_at_s >= HEALTH_REPEAT_S
        if not old and body == self._said.get(self._topics.health):
            return
        payload = msgspec.json.encode(facts | {"ts": int(self._wall())})
        if connection.send(self._topics.health, payload, retain=True):
            self._said[self._topics.health] = body
            self._health_told = news
            self._health_at_s = now_s

    async def _say(self, connection: Connection, topic: str, payload: bytes) -> None:
        if self._said.get(topic) == payload:
            return
        self._said[topic] = payload
        if await connection.deliver(topic, payload, retain=True) is None:
            self._said.pop(topic, None)


def health(status: Status) -> dict[str, Any]:
    """The picture for dashboards; memory in bytes, speed in tokens a second of one answer.

    ``loaded`` is false while the model is unloaded on request; ``temp_c``, ``throttled`` and ``psi`` (percent
    of 10 s) are null where there is no sensor.
    """
    memory, host = status.memory, status.host
    stalls = host.stalls.get("memory")
    return {
        "state": status.health,
        "queue": status.queue,
        "running": status.running,
        "loaded": status.engine is not EngineState.UNLOADED,
        "tok_s": None if status.decode_tps is None else round(status.decode_tps, 1),
        "mem": {
            "anon": memory.worker_anon_bytes,
            "swap": memory.worker_swap_bytes,
            "limit": memory.budget_bytes,
            "psi": None if stalls is None else stalls.some_percent,
        },
        **({"pool": status.mqtt.pool} if status.mqtt and status.mqtt.pool else {}),
        "conditions": [condition.code for condition in status.conditions],
        "temp_c": None if host.temperature_c is None else round(host.temperature_c),
        "throttled": host.throttled,
    }
