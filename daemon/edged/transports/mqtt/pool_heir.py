"""Takes over the session of a box that is offline, so that what it had accepted is answered by another.

What a box has not acknowledged stays in its session at the broker, and no other member of a shared
subscription gets it. But a session belongs to whoever connects under its client id: the heir does, ends the
session's subscriptions, works off what comes, and has the broker forget the session. A box that comes back in
the meantime takes its session back by connecting; the broker then ends the heir's connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from edged.api.errors import EdgeError
from edged.transports.mqtt.pool_boxes import Box
from edged.transports.mqtt.pool_connection import PoolConnection
from edged.transports.mqtt.pool_needs import Can

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.endpoint import Endpoint
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.pool_boxes import Boxes
    from edged.transports.mqtt.pool_topics import PoolTopics

log = logging.getLogger(__name__)

GRACE_S = 2.0  # a connection that broke is made again within a second, mostly
QUIET_S = 1.0  # without a message, and with all acknowledged: the session is empty
AGAIN_S = 10.0  # after an attempt that failed
AT_ONCE = 2  # sessions taken over at the same time
IN_HAND = 4  # requests of each that are held here; another comes for each that is done or handed on
CANCEL_AGAIN_S = 3.0  # a task says goodbye within one second
_NOBODY = Can(model="", params_b=0.0, context=0, features=())


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel ``tasks`` until they have ended: ``wait_for`` of Python 3.11 may lose a cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)


class Heirs:
    """The sessions that this box takes over. ``count`` is how many of them held requests."""

    def __init__(
        self,
        topics: PoolTopics,
        boxes: Boxes,
        endpoint: Callable[[str, bytes], Endpoint],
        on_message: Callable[[Connection, Incoming], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._topics = topics
        self._boxes = boxes
        self._endpoint = endpoint
        self._on_message = on_message
        self._clock = clock
        self._not_before_s: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.count = 0

    def look(self, *, serving: bool) -> None:
        """Begin to take over what falls to this box; called whenever the boxes may have changed."""
        now_s = self._clock()
        orphans = set(self._boxes.orphans(now_s, serving=serving))
        self._not_before_s = {node: self._not_before_s.get(node, now_s + GRACE_S) for node in orphans}
        for node, at_s in self._not_before_s.items():
            if at_s <= now_s and node not in self._tasks and len(self._tasks) < AT_ONCE:
                task = asyncio.create_task(self._take_over(node), name=f"mqtt-heir-{node}")
                self._tasks[node] = task
                task.add_done_callback(lambda _, node=node: self._ended(node))  # type: ignore[misc]

    async def stop(self) -> None:
        """Leave what is not done to the next heir."""
        await end(self._tasks.values())

    async def _take_over(self, node: str) -> None:
        will = msgspec.json.encode(Box("offline", self._boxes.can(node) or _NOBODY))
        connection = None
        try:
            endpoint = structs.replace(self._endpoint(node, will), receive_maximum=IN_HAND)
            connection = PoolConnection(endpoint, self._on_message)
            if await connection.open():
                own = {one for one, _ in self._topics.always(node)}
                await connection.unsubscribe(sorted(own | self._topics.every(node, self._boxes.kinds())))
                if connection.requests:  # a box that has stopped in order leaves none, mostly
                    log.warning("box %s is offline: taking over its requests", node)
                    self.count += 1
                await self._empty(connection)
            if connection.alive and self._boxes.state(node, self._clock()) == "offline":
                await connection.deliver(self._topics.box(node), b"", retain=True)
                await connection.leave()
                self._boxes.forget(node)
                log.info("nothing is left of box %s", node)
        except EdgeError as error:
            log.warning("the requests of box %s cannot be taken over: %s", node, error.message)
        except Exception:  # a task root: the next attempt may work
            log.exception("taking over the requests of box %s failed inside edged", node)
        finally:
            if connection is not None:
                connection.abandon("no longer needed")

    def _ended(self, node: str) -> None:
        self._tasks.pop(node, None)
        self._not_before_s[node] = self._clock() + AGAIN_S

    async def _empty(self, connection: PoolConnection) -> None:
        """Wait until all that the session held is acknowledged, or the connection is gone."""
        loop = asyncio.get_running_loop()
        while connection.alive:
            quiet_s = loop.time() - connection.last_heard_s
            if not connection.unacknowledged and quiet_s >= QUIET_S:
                return
            await asyncio.wait({connection.closed}, timeout=max(0.1, QUIET_S - quiet_s))
