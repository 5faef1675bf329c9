"""Shares the work of a pool of boxes: takes what there is room for, and gives the rest to who has more.

The broker deals requests to the boxes in turn, whatever each has to do, and keeps what it dealt in the
session of that box (docs/scaling.md tells how that was found out). So every box that serves is subscribed at
all times, for a message that nobody is subscribed to is lost, and three rules make work follow speed and
health:

1. A box begins only what it has a free slot for. What else it was dealt waits unacknowledged.
2. What waits is handed on to a box that called for it. Whoever gets a free slot subscribes to
   ``spare/<kind>`` and then calls on ``free/<kind>``; a box where requests wait subscribes to that and then
   asks on ``spare/<kind>``. Each subscribes before it publishes, so one of the two hears the other. The
   request itself goes into the session of the box that called.
3. The session of a box that is offline is taken over by another (edged.transports.mqtt.pool_heir).

All of it runs in one task, which takes a turn whenever something changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from edged.api.errors import EdgeError
from edged.api.status import Condition, PoolStatus
from edged.transports.mqtt.backoff import Backoff
from edged.transports.mqtt.desk import Desk
from edged.transports.mqtt.errors import not_taken
from edged.transports.mqtt.outbox import Outbox
from edged.transports.mqtt.pool_boxes import REFRESH_S, Box, Boxes
from edged.transports.mqtt.pool_calls import Calls
from edged.transports.mqtt.pool_connection import OneTry, PoolConnection
from edged.transports.mqtt.pool_heir import Heirs, end
from edged.transports.mqtt.pool_topics import PoolTopics
from edged.transports.mqtt.pool_work import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.api.config import Mqtt
    from edged.api.config import Pool as PoolConfig
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.endpoint import Endpoint
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.pool_boxes import State
    from edged.transports.port import Service

log = logging.getLogger(__name__)

IN_HAND = 16  # requests beyond the slots that a box may hold; what others take from it comes from these
TURN_S = 0.5  # a turn is taken at least so often: what changed without a word (heat, other clients) is seen
KEEPALIVE_S = 10  # a box that was cut off is missed after one and a half of it
LEAVE_S = 1.0  # for telling the others that this box stops
ANSWERS = 64  # remembered, at most; mqtt.duplicates when that is less


class Pool:
    """One box's part in a pool. ``start`` returns at once, as with any transport."""

    def __init__(
        self,
        config: PoolConfig,
        mqtt: Mqtt,
        node: str,
        service: Service,
        endpoint: Callable[[], Endpoint],
        *,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._node = node
        self._service = service
        self._endpoint_of_box = endpoint
        self._clock = clock
        self._topics = PoolTopics(mqtt.base, config.name)
        self._line = OneTry(Outbox(mqtt.outbox, mqtt.outbox_kib << 10, mqtt.outbox_ttl_s, clock))
        few = structs.replace(mqtt, duplicates=min(mqtt.duplicates, ANSWERS))
        self._desk = Desk(self._topics.plain, few, service, self._line, node=node, clock=clock)
        self._boxes = Boxes(node)
        self._wake = asyncio.Event()
        self._work = Work(self._topics, self._boxes, service, self._desk, wake=self._wake.set, clock=clock)
        self._heirs = Heirs(self._topics, self._boxes, self._endpoint, self._work.take, clock=clock)
        self._backoff = Backoff(uniform)
        self._filters: set[str] = set()  # the shared subscriptions in force
        self._called = Calls()  # when asked to, for requests that have not come yet
        self._told_room = 0  # free slots that it called for when it got them
        self._reasons = 0  # to call for more: requests wait somewhere
        self._said: tuple[bytes, float] = b"", 0.0  # and when
        self._trouble = "no attempt was made yet"
        self._settled = asyncio.Event()  # subscriptions and what waits are as they should be
        self._task: asyncio.Task[None] | None = None

    def status(self) -> PoolStatus:
        """How it stands between this box and the others."""
        state: State = "serving" if self._work.serving else "away"
        return PoolStatus(
            name=self._topics.name,
            state=state if self._said[0] else "offline",
            boxes=len(self._work.others),
            waiting=len(self._work),
            taken=self._work.taken,
            handed_on=self._work.handed_on,
            taken_over=self._heirs.count,
        )

    def condition(self) -> Condition | None:
        """Why this box has no part in the pool; None when nothing is wrong."""
        connection = self._line.connection
        if not self._trouble:
            return not_taken(connection.refused, f"pool {self._topics.name}") if connection else None
        return Condition(
            code="pool_apart",
            severity="warning",
            message=f"this box takes no part in the pool {self._topics.name}: {self._trouble}",
            hint="docs/scaling.md says what a pool needs of the broker",
        )

    def changed(self) -> None:
        """A slot was taken or became free, or the service's state is another."""
        self._wake.set()

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="mqtt-pool")

    async def drain(self) -> None:
        """Take nothing new, and give what waits to others; returns when they were asked, after a second."""
        self._work.leaving = True
        self._settled.clear()
        self._wake.set()
        if self._line.connection is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), LEAVE_S)

    async def stop(self, settle_s: float) -> None:
        """Let answers out, leave what is unanswered to the others, disconnect."""
        self._work.leaving = True
        self._desk.close()
        await self._heirs.stop()
        await self._desk.settle(settle_s if self._line.connection is not None else 0.0)
        if self._task is not None:
            await end({self._task})

    # --- the loop of connections --------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._attempt()
            except EdgeError as error:
                self._note(error.message)
            except Exception:  # a task root: whatever broke, the next attempt may work
                log.exception("pool connection failed inside edged")
                self._note("a defect of edged; its log has the details")
            await asyncio.sleep(self._backoff.next_s())

    async def _attempt(self) -> None:
        connection = PoolConnection(self._endpoint(self._node, self._presence("offline")), self._receive)
        began_s = self._clock()
        try:
            resumed = await connection.open()
            self._trouble = ""
            log.info("pool %s joined, session_resumed=%s", self._topics.name, resumed)
            await self._serve(connection)
        except asyncio.CancelledError:
            await self._depart(connection)
            raise
        finally:
            self._line.dropped()
            self._said = b"", 0.0
            self._work.open = False
            await self._heirs.stop()
            self._filters = set()
            connection.abandon("stopped")
            self._work.drop()
            self._backoff.connected_for(self._clock() - began_s)
        self._note(f"the connection ended: {await connection.closed}")

    async def _serve(self, connection: PoolConnection) -> None:
        self._refused(await connection.subscribe(self._topics.always(self._node)))
        # What the session still hears from before would be lost on a box that has no use for it.
        await connection.unsubscribe([self._topics.calls, self._topics.questions(self._work.can.kind)])
        self._line.raised(connection)
        self._work.joined()
        self._said = b"", 0.0
        while connection.alive:
            self._wake.clear()
            await self._turn(connection)
            woken = asyncio.ensure_future(self._wake.wait())
            events: set[asyncio.Future[Any]] = {woken, connection.closed}
            await asyncio.wait(events, timeout=TURN_S, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()

    async def _turn(self, connection: PoolConnection) -> None:
        work = self._work
        work.drop()
        work.begin()
        await self._listen(connection)
        await self._tell(connection)  # who reads "serving" may rely on it
        work.begin()
        await work.give(connection)
        self._call(connection)
        self._heirs.look(serving=work.serving)
        if work.leaving and self._wanted() == self._filters:
            self._settled.set()

    async def _depart(self, connection: PoolConnection) -> None:
        """Say goodbye. The session stays for an heir: who has older news may still hand on to it."""
        if not connection.alive:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await connection.deliver(self._topics.box(self._node), self._presence("offline"), retain=True)
                await connection.close()

    # --- what this box is to the others -------------------------------------------------------

    def _presence(self, state: State) -> bytes:
        return msgspec.json.encode(Box(state, self._work.can))

    async def _tell(self, connection: PoolConnection) -> None:
        said, now_s = self._presence("serving" if self._work.serving else "away"), self._clock()
        if said != self._said[0] or now_s - self._said[1] >= REFRESH_S:
            self._said = said, now_s
            await connection.deliver(self._topics.box(self._node), said, retain=True)

    def _wanted(self) -> set[str]:
        """The shared subscriptions that fit what there is to do."""
        work = self._work
        return self._topics.wanted(
            work.can.kind,
            # Without another box that takes them, requests wait for this one, as for a single box.
            intake=work.serving or not work.others,
            spare=work.serving and work.room > 0 and not len(work),
            surplus=len(work) > 0 and bool(work.others),
        )

    async def _listen(self, connection: PoolConnection) -> None:
        wanted, had = self._wanted(), self._filters
        self._filters = wanted
        if gone := sorted(had - wanted):
            await connection.unsubscribe(gone)
        if not (new := sorted(wanted - had)):
            return
        passing = {self._topics.calls, self._topics.questions(self._work.can.kind)}
        self._refused(await connection.subscribe([(one, 0 if one in passing else 1) for one in new]))
        if self._topics.calls in new:
            self._work.listening()
        if self._topics.questions(self._work.can.kind) in new:
            self._told_room = 0  # whoever has asked meanwhile was not heard

    def _call(self, connection: PoolConnection) -> None:
        """Call for one more for each slot that became free, and for each reason to do so, up to the room.

        While nothing waits anywhere, nobody hears it.
        """
        kind, now_s = self._work.can.kind, self._clock()
        listens = self._topics.questions(kind) in self._filters and self._work.others
        room = self._work.room if listens else 0
        asked = min(self._reasons, room - self._called.count(now_s))
        for _ in range(asked):  # others may have been heard by nobody
            self._called.add(self._node, now_s)
        for _ in range(max(asked, room - self._told_room)):
            connection.send(self._topics.free(kind), self._node.encode())
        self._told_room, self._reasons = room, 0

    def _receive(self, connection: Connection, message: Incoming) -> None:
        node = self._topics.node(message.topic)
        if node is not None:
            if node == self._node and message.payload != self._said[0]:
                self._said = b"", 0.0  # somebody cleared or overwrote it
            self._boxes.hear(node, message.payload, self._clock())
            self._wake.set()
        elif self._topics.is_call(message.topic):
            self._work.called(message.payload)
        elif self._topics.is_question(message.topic):
            self._reasons += 1
            self._wake.set()
        else:
            if self._topics.original(message.topic) != message.topic:  # who hands one on may have more
                self._called.take(lambda _: True, self._clock())
                self._reasons += 1
            self._work.take(connection, message)

    def _endpoint(self, node: str, will: bytes) -> Endpoint:
        """How the session of ``node`` in this pool is connected to."""
        endpoint = self._endpoint_of_box()
        return structs.replace(
            endpoint,
            version="5",
            client_id=f"edged-{node}@{self._topics.name}",
            keepalive_s=min(KEEPALIVE_S, endpoint.keepalive_s),
            will_topic=self._topics.box(node),
            will_payload=will,
            receive_maximum=self._service.info().model.slots + IN_HAND,
        )

    def _refused(self, filters: list[str]) -> None:
        if filters:
            self._note(f"the broker does not let it subscribe to {', '.join(filters)}")

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("pool %s: %s", self._topics.name, trouble)
        self._trouble = trouble
