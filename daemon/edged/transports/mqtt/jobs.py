"""Jobs over MQTT: ``<box>/job/<type>/<id>`` takes the order and shows, retained, what becomes of it.

The order and the states share a topic. What we say carries ``ts``, which an order must not have; so our own
words, which the broker sends back to us, are told apart on every version of MQTT.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from edged.api.errors import BadRequest
from edged.api.requests import ID_PATTERN
from edged.host.quiet import QuietLog
from edged.maintenance.records import TYPES, decode_order
from edged.transports.mqtt.board import Retained

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.maintenance.records import JobType, Record
    from edged.maintenance.runner import Jobs
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.topics import Topics


class _Told(Struct, frozen=True):
    """A state as we say it."""

    ts: int
    state: str


class JobBoard:
    """See :class:`edged.transports.mqtt.board.Board`."""

    def __init__(self, topics: Topics, jobs: Jobs) -> None:
        self._root = f"{topics.root}/job/"
        self._jobs = jobs
        self._retained = Retained()
        self._log = QuietLog(logging.getLogger(__name__), time.monotonic)
        self._tasks: set[asyncio.Task[None]] = set()
        self.changed: Callable[[], None] = lambda: None
        jobs.on_change = self._told_anew

    @property
    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        return ((f"{self._root}+/+", 1),)

    def receive(self, connection: Connection, message: Incoming) -> bool:
        if not message.topic.startswith(self._root):
            return False
        task = asyncio.get_running_loop().create_task(self._take(connection, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def forget(self) -> None:
        self._retained.forget()

    async def tell(self, connection: Connection) -> None:
        states = {f"{self._root}{one.type}/{one.id}": render(one) for one in self._jobs.records.values()}
        for topic in self._retained.others(set(states)):
            await self._retained.say(connection, topic, b"")
        for topic, payload in states.items():
            await self._retained.say(connection, topic, payload)

    def _told_anew(self) -> None:
        self.changed()

    async def _take(self, connection: Connection, message: Incoming) -> None:
        """Act on an order, then acknowledge it: what was acknowledged is in the journal."""
        job_type, _, job_id = message.topic.removeprefix(self._root).partition("/")
        for known in TYPES:
            if known == job_type and ID_PATTERN.fullmatch(job_id):
                await self._act(known, job_id, message)
                break
        else:
            self._log.warning("ignored a job topic=%r: its type or id is unknown", message.topic[:200])
        if message.qos:
            connection.acknowledge(message.mid)

    async def _act(self, job_type: JobType, job_id: str, message: Incoming) -> None:
        if not message.payload:
            self._retained.forget(message.topic)
            await self._jobs.forget(job_type, job_id)
            return
        told = _told(message.payload)
        if told is not None:
            if message.retain and told.state in {"init", "executing"}:
                await self._jobs.unknown(job_type, job_id)
            return
        self._retained.forget(message.topic)  # the order may stand there now
        try:
            order = decode_order(job_type, message.payload)
        except BadRequest as error:
            self._log.warning("refused a job type=%s id=%s: %.200s", job_type, job_id, error.message)
            await self._jobs.refuse(job_type, job_id, error)
            self.changed()
            return
        if order.state == "cancelled":
            await self._jobs.cancel(job_type, job_id)
            self.changed()
        else:
            await self._jobs.offer(job_type, job_id, order)


def render(record: Record) -> bytes:
    """The state of a job as it is published."""
    told: dict[str, Any] = {"state": record.state}
    for name in ("model", "url", "sha256", "name", "quant"):
        if value := getattr(record.order, name):
            told[name] = value
    if record.progress is not None:
        told["progress"] = record.progress
    if record.done_bytes is not None and not record.over:
        told |= {"done_bytes": record.done_bytes, "total_bytes": record.total_bytes}
    told |= record.result
    if record.error is not None:
        told["error"] = record.error
    return msgspec.json.encode(told | {"ts": record.ts})


def _told(payload: bytes) -> _Told | None:
    try:
        return msgspec.json.decode(payload, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
