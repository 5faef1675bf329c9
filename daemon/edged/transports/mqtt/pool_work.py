"""The requests that a pool dealt to this box: begun while there is room, handed on while others have more."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from msgspec import structs

from edged.api.errors import Busy, Cancelled, EdgeError, Expired, NoBox
from edged.transports.mqtt.codec import max_payload_bytes
from edged.transports.mqtt.pool_backlog import LAST_HOP, MAX_HOPS, Backlog, waiting
from edged.transports.mqtt.pool_calls import Calls
from edged.transports.mqtt.pool_needs import can_of
from edged.transports.mqtt.topics import CancelTopic, RequestTopic

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.desk import Desk
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.pool_backlog import Waiting
    from edged.transports.mqtt.pool_boxes import Boxes
    from edged.transports.mqtt.pool_connection import PoolConnection
    from edged.transports.mqtt.pool_needs import Can
    from edged.transports.mqtt.pool_topics import PoolTopics
    from edged.transports.port import Service

ASK_AGAIN_S = 1.0  # what a question or a call that was lost costs
MOST_QUESTIONS = 8  # at first, each to another box; who is given a request calls again while it has room
SETTLE_S = 3.0  # after connecting, until the retained messages of all boxes have come


class Work:
    """What waits at this box. ``wake`` is called when another turn should be taken."""

    def __init__(
        self,
        topics: PoolTopics,
        boxes: Boxes,
        service: Service,
        desk: Desk,
        *,
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._topics = topics
        self._boxes = boxes
        self._service = service
        self._desk = desk
        self._wake = wake
        self._clock = clock
        self._backlog = Backlog()
        self._calls = Calls()  # of boxes that would begin one more
        self._questions = MOST_QUESTIONS
        self._ask_at_s = 0.0
        self._fed = False  # the service has not yet counted what was begun
        self._joined_s = 0.0
        self.open = False  # there is a connection to answer over
        self.leaving = False  # a stop has begun
        self.taken = 0
        self.handed_on = 0

    def __len__(self) -> int:
        return len(self._backlog)

    @property
    def can(self) -> Can:
        """What this box can do."""
        return can_of(self._service.info())

    @property
    def others(self) -> dict[str, Can]:
        """The other boxes that serve."""
        return self._boxes.serving(self._clock())

    @property
    def serving(self) -> bool:
        """This box takes requests, and has a model to answer them with."""
        return self._service.ready and not self.leaving

    @property
    def room(self) -> int:
        """How many requests may begin now. Alone and not ready, as many as a single box lets wait."""
        if self.leaving:
            return 0
        if not self._service.ready and not self.others:
            return self._service.capacity - self._desk.busy
        return self._service.room

    def joined(self) -> None:
        """A connection was made."""
        self._joined_s = self._clock()
        self.open = True

    def listening(self) -> None:
        """From now on this box hears when another has free slots; who has some already is asked now."""
        self._calls.clear()
        self._questions, self._ask_at_s = MOST_QUESTIONS, self._clock()

    def called(self, payload: bytes) -> None:
        """A box would begin one more."""
        self._calls.add(payload[:256].decode("utf-8", "replace"), self._clock())
        self._wake()

    def drop(self) -> None:
        """Forget what came on connections that are gone: the broker gives it to somebody again.

        So it does with what did not fit here, on another connection.
        """
        self._backlog.take(lambda entry: not entry.connection.alive)
        if not self._desk.busy:
            for connection in self._backlog.left():
                connection.abandon("requests were left with the broker, which sends them again now")

    def take(self, connection: Connection, message: Incoming) -> None:
        """A message that is no news of other boxes."""
        message = structs.replace(message, topic=self._topics.original(message.topic))
        place = self._topics.plain.parse(message.topic)
        if isinstance(place, CancelTopic):
            self._cancel(place.client, message.payload)
        limits = self._service.limits
        too_large = len(message.payload) > max_payload_bytes(limits)  # which the desk says at once
        if place is None or message.retain or isinstance(place, CancelTopic) or too_large:
            self._desk.receive(connection, message)
            return
        entry = waiting(connection, message, place, now_s=self._clock(), default_ttl_s=limits.default_ttl_s)
        if not self._backlog.add(entry) and not message.qos:
            full = Busy("too many requests wait at this box of the pool", retry_after_s=5.0)
            self._desk.refuse(connection, message, full)
        self.begin()
        self._wake()

    def begin(self) -> None:
        """Begin what there is room for, once in a turn of the event loop: then the service has counted it."""
        if self._fed or not self.open:
            return
        can, room = self.can, self.room
        while room > 0 and (entry := self._backlog.first(lambda entry: not entry.lacks(can))) is not None:
            room -= 1
            self.taken += 1
            self._fed = True
            self._desk.receive(entry.connection, *entry.begun(self._clock()))
        if self._fed:
            asyncio.get_running_loop().call_soon(self._counted)

    async def give(self, connection: PoolConnection) -> None:
        """Hand on what this box cannot begin or cannot do, and end what has waited too long."""
        await self._settled()
        self._ask(connection)
        can = self.can
        for entry in self._backlog:
            if not connection.alive:
                return
            lacking = entry.lacks(can)
            if self._ended(entry, lacking):
                continue
            urgent = bool(lacking) or not self.serving
            if entry.hops < (LAST_HOP if urgent else MAX_HOPS):
                await self._pass(connection, entry, urgent=urgent)

    def _counted(self) -> None:
        self._fed = False
        self.begin()
        self._wake()

    async def _settled(self) -> None:
        while self._fed:  # noqa: ASYNC110 - a turn of the event loop, no waiting
            await asyncio.sleep(0)

    def _cancel(self, client: str, payload: bytes) -> None:
        """End what waits here; what runs is the desk's."""
        wanted = client, payload[:256].decode("utf-8", "replace").strip().strip('"')
        for entry in self._backlog.take(
            lambda entry: isinstance(entry.place, RequestTopic) and (entry.place.client, entry.id) == wanted
        ):
            self._desk.refuse(entry.connection, entry.message, Cancelled("the request was cancelled"))

    def _ended(self, entry: Waiting, lacking: str) -> bool:
        """End a request whose time is up, or that no box of the pool can answer."""
        now_s = self._clock()
        if lacking and now_s - self._joined_s > SETTLE_S and all(map(entry.lacks, self._boxes.known())):
            error: EdgeError = NoBox(f"no box of this pool has {lacking}")
        elif now_s < entry.deadline_s:
            return False
        elif lacking:
            error = NoBox(f"no box of this pool that was there in time has {lacking}")
        else:
            error = Expired("the request waited longer than its time to live")
        if self._backlog.remove(entry):
            self._desk.refuse(entry.connection, entry.message, error)
        return True

    def _ask(self, connection: PoolConnection) -> None:
        """Ask boxes with free slots to call: some when this box begins to listen, then one a second."""
        now_s = self._clock()
        if not len(self) or now_s < self._ask_at_s:
            return
        for can in {can.kind: can for can in self.others.values()}.values():
            suiting = sum(not entry.lacks(can) for entry in self._backlog)
            for _ in range(min(suiting, self._questions)):
                connection.send(self._topics.spare(can.kind), b"")
        self._questions, self._ask_at_s = 1, now_s + ASK_AGAIN_S

    async def _pass(self, connection: PoolConnection, entry: Waiting, *, urgent: bool) -> None:
        """Hand ``entry`` on to a box that called, an ``urgent`` one to any that can answer it."""
        able = {node for node, can in self.others.items() if not entry.lacks(can)}
        node = self._calls.take(able.__contains__, self._clock())
        if node is None and urgent and able:
            node = random.choice(sorted(able))  # noqa: S311 - spreads work, keeps no secret
        if node is None or not self._backlog.remove(entry):
            return
        now_s = self._clock()
        topic = self._topics.handed(node, entry.message.topic)
        if await connection.hand_on(topic, entry.aged(now_s), entry.notes(now_s)):
            self.handed_on += 1
            if entry.message.qos:
                entry.connection.acknowledge(entry.message.mid)
            return
        self._backlog.restore(entry)
        self.begin()
