"""Keeps a connection to the broker for as long as the daemon runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from edged.api.errors import EdgeError
from edged.api.status import Condition
from edged.transports.mqtt import tls
from edged.transports.mqtt.backoff import STABLE_S, Backoff
from edged.transports.mqtt.codec import max_payload_bytes
from edged.transports.mqtt.connection import Connection
from edged.transports.mqtt.credentials import read_password
from edged.transports.mqtt.desk import Desk
from edged.transports.mqtt.endpoint import Endpoint
from edged.transports.mqtt.errors import BrokerRefused, BrokerUnreachable, NoAnswer, VersionRefused, not_taken
from edged.transports.mqtt.last_answer import last_answer
from edged.transports.mqtt.line import Line
from edged.transports.mqtt.outbox import Outbox
from edged.transports.mqtt.presence import HEALTH_LOOK_S, OFFLINE, Presence
from edged.transports.mqtt.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.config import Mqtt
    from edged.api.config import Pool as PoolConfig
    from edged.api.events import Finished
    from edged.api.status import PoolStatus
    from edged.transports.mqtt.board import Board
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.pool import Pool
    from edged.transports.port import Service

log = logging.getLogger(__name__)

SETTLE_S = 2.0  # answers that are finished but not yet confirmed, at a stop
# What is larger a version 5 broker drops without a word; up to here the sender hears "too_large".
LARGEST_HEARD_BYTES = 16 << 20  # held for as long as it takes to refuse it
FAREWELL_S = 1.0  # the "offline" of a clean stop and its PUBACK


class MqttTransport:
    """``start`` returns at once: a missing broker is a condition, never a reason not to serve."""

    def __init__(
        self,
        config: Mqtt,
        node: str,
        service: Service,
        *,
        boards: Sequence[Board] = (),
        pool: PoolConfig | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._client_id = f"edged-{node}"
        self._service = service
        self._clock = clock
        self._backoff = Backoff(uniform)
        self._version: str = config.version
        self._version_works = False  # it has connected with this version once, and no other is to be tried
        self._version_told = False  # the broker said that it does not speak the configured one
        self._topics = Topics(config.base, node)
        outbox = Outbox(config.outbox, config.outbox_kib << 10, config.outbox_ttl_s, clock)
        self._line = Line(outbox)
        self._desk = Desk(self._topics, config, service, self._line, clock=clock)
        if config.last_answer:
            self._desk.on_answer = self._show
        self._presence = Presence(self._topics, service, clock=clock)
        self._changed = asyncio.Event()
        self._boards = boards
        for board in boards:
            board.changed = self.service_changed
        self._trouble: EdgeError | None = BrokerUnreachable("no attempt was made yet")
        self._task: asyncio.Task[None] | None = None
        self._pool: Pool | None = None
        if pool is not None and pool.enabled:
            from edged.transports.mqtt.pool import Pool  # noqa: PLC0415 - what is off costs no memory

            self._pool = Pool(pool, config, node, service, self._endpoint, clock=clock, uniform=uniform)

    @property
    def pool(self) -> PoolStatus | None:
        return self._pool.status() if self._pool else None

    @property
    def outbox(self) -> tuple[int, int]:
        """Answers the broker has not confirmed, and those given up since the start."""
        outbox = self._line.outbox
        return len(outbox), outbox.without_room + outbox.too_old

    @property
    def connected(self) -> bool:
        """The broker accepted us, and the connection has not ended."""
        return self._line.connection is not None and self._line.connection.alive

    @property
    def address(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def condition(self) -> Condition | None:
        """What is wrong between this box and its broker; None when nothing is."""
        if self._trouble is None:
            return None
        verb = "refuses" if isinstance(self._trouble, BrokerRefused) else "cannot be reached from"
        return Condition(
            code=self._trouble.code,
            severity="warning",
            message=f"the MQTT broker at {self.address} {verb} this box: {self._trouble.message}",
            hint=self._trouble.hint,
        )

    def conditions(self) -> list[Condition]:
        """What is wrong with the broker, and what that has cost."""
        pool = self._pool.condition() if self._pool else None
        connection = self._line.connection
        refused = not_taken(connection.refused, self.address) if connection else None
        sources = (self.condition(), refused, self._line.outbox.condition(), pool)
        return [found for found in sources if found is not None]

    def service_changed(self) -> None:
        """The model became ready or unready: tell those who watch status and info."""
        self._changed.set()
        if self._pool:
            self._pool.changed()

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="mqtt")
        if self._pool:
            await self._pool.start()

    async def drain(self) -> None:
        """Take nothing new and say so; what arrives from now on stays with the broker."""
        self._desk.close()
        self._presence.leaving = True
        connection = self._line.connection
        if connection is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._presence.tell(connection), FAREWELL_S)
        if self._pool:
            await self._pool.drain()

    async def stop(self) -> None:
        """Let finished answers out, say "offline", disconnect; bounded, whatever the broker does."""
        self._desk.close()
        self._presence.leaving = True
        if self._pool:
            await self._pool.stop(SETTLE_S)
        await self._desk.settle(SETTLE_S if self.connected else 0.0)
        connection = self._line.connection
        if connection is not None and connection.alive:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    connection.deliver(self._topics.status, OFFLINE, retain=True), FAREWELL_S
                )
            await connection.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- the loop of connections --------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                if await self._attempt():
                    continue
            except EdgeError as error:
                self._note(error)
            except Exception:  # a task root: whatever broke, the next attempt may work
                log.exception("mqtt connection failed inside edged")
                self._note(BrokerUnreachable("a defect of edged; its log has the details"))
            await asyncio.sleep(self._backoff.next_s())
            if not self._version_told:  # silence has many reasons, and the next answer may be in version 5
                self._version = self._config.version

    async def _attempt(self) -> bool:
        """One connection from its birth to its end; True when the next should follow at once."""
        connection = Connection(self._endpoint(), self._receive)
        try:
            resumed = await connection.open()
            self._version_works |= self._version_told or self._version == self._config.version
            self._line.raised(connection)
            began_s = self._clock()
            log.info(
                "mqtt connected to %s version=%s session_resumed=%s", self.address, self._version, resumed
            )
            await self._serve(connection)
            lived_s = self._clock() - began_s
            self._backoff.connected_for(lived_s)
        except (VersionRefused, NoAnswer) as error:
            if not self._fall_back(error):
                raise
            return True
        finally:
            self._line.dropped()
            connection.abandon("stopped")
        raise _ended(await connection.closed, lived_s, connection.hint)

    def _show(self, client: str, op: str, answer: Finished) -> None:
        """Let whoever watches the box see an answer; nobody's answer waits for that."""
        limit_bytes = self._line.fitting(
            self._topics.last_answer, self._service.info().limits.max_reply_bytes
        )
        shown = last_answer(answer, client=client, op=op, limit_bytes=limit_bytes)
        self._line.send(self._topics.last_answer, shown)

    def _receive(self, connection: Connection, message: Incoming) -> None:
        if not any(board.receive(connection, message) for board in self._boards):
            self._desk.receive(connection, message)

    def _fall_back(self, error: VersionRefused | NoAnswer) -> bool:
        """Try 3.1.1 when a broker does not take 5; some say so, others (amqtt) fall silent over it."""
        if self._version_works or self._config.version != "5":
            return False
        if self._version == "5":
            log.info("mqtt broker %s does not speak MQTT 5 (%s), trying 3.1.1", self.address, error.message)
            self._version = "3.1.1"
            self._version_told = isinstance(error, VersionRefused)
            return True
        self._version, self._version_told = "5", False  # it was not the version: begin again from the top
        return False

    async def _serve(self, connection: Connection) -> None:
        """Subscribe, then publish what changes until the connection ends."""
        heard = [one for board in self._boards for one in board.subscriptions]
        refused = await connection.subscribe((*self._topics.subscriptions, *heard))
        self._trouble = _not_allowed(refused) if refused else None
        if refused:
            log.warning("mqtt broker %s refused the subscription %s", self.address, ", ".join(refused))
        self._presence.forget()
        for board in self._boards:
            board.forget()
        health = asyncio.create_task(self._report_health(connection), name="mqtt-health")
        try:
            while connection.alive:
                self._changed.clear()
                await self._presence.tell(connection)
                for board in self._boards:
                    await board.tell(connection)
                changed = asyncio.ensure_future(self._changed.wait())
                events: set[asyncio.Future[Any]] = {changed, connection.closed}
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            health.cancel()
            await asyncio.gather(health, return_exceptions=True)

    async def _report_health(self, connection: Connection) -> None:
        told = False
        while connection.alive:
            try:
                self._presence.tell_health(connection)
            except OSError as error:  # a figure of the host that cannot be read at the moment
                if not told:
                    log.warning("health cannot be told: %s", error)
                told = True
            await asyncio.sleep(HEALTH_LOOK_S)

    def _endpoint(self) -> Endpoint:
        config = self._config
        largest = max_payload_bytes(self._service.limits)
        return Endpoint(
            host=config.host,
            port=config.port,
            version=self._version,
            client_id=self._client_id,
            keepalive_s=config.keepalive_s,
            will_topic=self._topics.status,
            will_payload=OFFLINE,
            receive_maximum=self._service.capacity,
            max_packet_bytes=max(2 * largest, LARGEST_HEARD_BYTES),
            username=config.username,
            password=read_password(config.password_file) if config.username else "",
            tls=tls.context(config.ca_file, config.cert_file, config.key_file) if config.ca_file else None,
        )

    def _note(self, error: EdgeError) -> None:
        """Keep the trouble for `condition`, and log it when it is news."""
        news = self._trouble is None or self._trouble.message != error.message
        self._trouble = error
        found = self.condition()
        if news and found is not None:
            log.warning("%s (%s)", found.message, found.hint or "trying again by itself")


def _ended(reason: str, lived_s: float, hint: str = "") -> EdgeError:
    why = "the broker closed it" if reason == "Unspecified error" else reason
    # Two boxes of one name throw each other out for ever, and mosquitto 2.0 does not say so.
    if not hint and lived_s < STABLE_S:
        hint = "does another box have the same `node`? Each needs its own"
    return BrokerUnreachable(f"the connection ended: {why}", hint=hint)


def _not_allowed(filters: list[str]) -> BrokerRefused:
    return BrokerRefused(
        f"it does not let us subscribe to {', '.join(filters)}", hint="allow these topics in the broker's ACL"
    )
