"""Takes what arrives, decides what it is, and sees each request through to its acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from typing import TYPE_CHECKING

from msgspec import structs

from edged.api.errors import BadRequest, Busy, Cancelled, EdgeError, Loading, NoBox
from edged.api.events import Failed, Finished
from edged.host.quiet import QuietLog
from edged.transports.mqtt import codec
from edged.transports.mqtt.answers import Answers
from edged.transports.mqtt.exchange import Exchange, Receipt, Reply, rendered
from edged.transports.mqtt.held import Held, HeldRequest
from edged.transports.mqtt.pool_needs import can_of, unmet
from edged.transports.mqtt.topics import Ask, CancelTopic, RequestTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from edged.api.config import Mqtt
    from edged.api.events import Terminal
    from edged.transports.mqtt.codec import Asked
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.line import Line
    from edged.transports.mqtt.pool_needs import Needs
    from edged.transports.mqtt.topics import Topics
    from edged.transports.port import Service

ANSWERS_BYTES = 4 << 20  # what remembered answers may take of a supervisor of 45 MiB
SPARE_EXCHANGES = 64  # refusals on their way out, besides the requests the service holds


class Desk:
    """The requests of one node. ``receive`` never blocks and never raises.

    With ``node`` they are a pool's: answers tell which box gave them, and an answer whose request the broker
    gives to somebody again is kept until that is this box.
    """

    def __init__(
        self,
        topics: Topics,
        config: Mqtt,
        service: Service,
        line: Line,
        *,
        node: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics = topics
        self._node = node
        self._config = config
        self._service = service
        self._line = line
        self._log = QuietLog(logging.getLogger(__name__), clock)
        self._answers = Answers(config.duplicates, ANSWERS_BYTES)
        self._clock = clock
        self._held = Held()
        self._running: dict[tuple[str, str, str], Exchange] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.on_answer: Callable[[str, str, Finished], None] = lambda _client, _op, _answer: None

    @property
    def busy(self) -> int:
        """Exchanges that are not over."""
        return len(self._tasks)

    def close(self) -> None:
        """Take nothing new; what arrives stays with the broker for the next run."""
        self._closed = True
        self._held.clear()

    async def settle(self, timeout_s: float) -> None:
        """Wait for what runs, then give up on it: without acknowledgement the broker keeps it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def receive(self, connection: Connection, message: Incoming, waited_s: float = 0.0) -> None:
        """Take ``message``, which has waited elsewhere for so long."""
        receipt = Receipt(connection, message.mid) if message.qos else None
        place = self._topics.parse(message.topic)
        if place is None or message.retain:
            why = "it is retained" if message.retain else "its client or operation is not a plain name"
            self._log.warning("ignored a message topic=%r: %s", message.topic[:200], why)
            if receipt:
                receipt.acknowledge()
        elif isinstance(place, CancelTopic):
            self._cancel(place.client, message.payload)
            if receipt:
                receipt.acknowledge()
        elif self._closed and receipt:
            self._log.info("left a request to the next run topic=%s", message.topic)
        else:
            self._take(place, message, receipt, waited_s)

    def refuse(self, connection: Connection, message: Incoming, error: EdgeError) -> None:
        """Answer a request with ``error`` and acknowledge it."""
        place = self._topics.parse(message.topic)
        if isinstance(place, Ask | RequestTopic):
            wanted: tuple[Reply, ...] = (self._ordinary(place),)
            with contextlib.suppress(EdgeError):
                wanted = self._places(place, message, wanted[0])
            request_id = codec.read_id(message.payload, self._service.limits) or ""
            receipt = Receipt(connection, message.mid) if message.qos else None
            self._refuse(place, b"", wanted, Failed.of(request_id, error), receipt)

    def _cancel(self, client: str, payload: bytes) -> None:
        request_id = payload[:256].decode("utf-8", "replace").strip().strip('"')
        known = self._service.cancel(client, request_id) or self._cancel_held(client, request_id)
        self._log.info("cancel client=%s id=%.64r known=%s", client, request_id, known)

    def _cancel_held(self, client: str, request_id: str) -> bool:
        """End a request that waits unacknowledged; False when it does not wait here."""
        for one in self._held.of(client):
            if codec.read_id(one.message.payload, self._service.limits) == request_id:
                self._held.remove(one)
                self.refuse(one.receipt.connection, one.message, Cancelled("the client cancelled it"))
                return True
        return False

    def _take(
        self, place: Ask | RequestTopic, message: Incoming, receipt: Receipt | None, waited_s: float = 0.0
    ) -> None:
        digest = hashlib.sha256(message.payload).digest()[:16]
        wanted: tuple[Reply, ...] = (self._ordinary(place),)
        try:
            wanted = self._places(place, message, wanted[0])
            asked = codec.aged(self._decode(place, message, digest), waited_s, self._service.limits)
            wanted = self._narrowed(place, asked, wanted)
            if asked.needs and (lacking := self._lacking(asked.needs, asked.request.op)):
                raise NoBox(f"this box does not have {lacking}")
            if self._closed:
                raise Loading("this box is shutting down", retry_after_s=30.0)
            key = (*_client_op(place), asked.request.id)
            running = self._running.get(key)
            if running is not None:
                self._join(running, digest, wanted, receipt)
                return
        except EdgeError as error:
            request_id = codec.read_id(message.payload, self._service.limits) or ""
            failed = Failed.of("" if isinstance(place, Ask) else request_id, error)
            if receipt and self._full():
                self._hold(place, message, receipt, waited_s)
            else:
                self._refuse(place, digest, wanted, failed, receipt)
            return
        exchange = Exchange(key, digest, wanted, self._stream_topic(place))
        exchange.own(receipt)
        remembered = self._answers.find(key, digest)
        if remembered is not None:
            self._log.info("answered from memory client=%s op=%s id=%s", *key)
            self._spawn(self._finish(exchange, remembered))
        elif receipt and (self._full() or not self._room()):
            self._hold(place, message, receipt, waited_s)
        elif self._full():
            self._shed(exchange)
        else:
            self._running[key] = exchange
            self._spawn(self._answer(exchange, asked))

    def _hold(self, place: Ask | RequestTopic, message: Incoming, receipt: Receipt, waited_s: float) -> None:
        """Keep a QoS 1 request until there is room; without its acknowledgement the broker sends no more."""
        if not self._held.put(HeldRequest(place, message, receipt, self._clock() - waited_s)):
            self._log.warning("left a request with the broker: too much waits here topic=%s", message.topic)

    def _room(self) -> bool:
        """One request is always taken, so that what is held goes on when it ends."""
        return len(self._running) < max(1, self._service.capacity)

    def _take_held(self) -> None:
        while self._room():
            one = None if self._full() else self._held.take()
            if one is None:
                break
            self._take(one.place, one.message, one.receipt, self._clock() - one.since_s)
        connection = self._line.connection
        if self._held.left and not self._running and connection is not None:
            self._held.left = False
            connection.abandon("requests were left with the broker, which sends them again now")

    def _join(
        self, running: Exchange, digest: bytes, wanted: tuple[Reply, ...], receipt: Receipt | None
    ) -> None:
        if running.digest != digest:
            raise BadRequest("id: a request with this id and another content is being answered")
        if not running.attach(wanted, receipt):
            raise Busy("this request was repeated with too many reply topics", retry_after_s=5.0)

    def _decode(self, place: Ask | RequestTopic, message: Incoming, digest: bytes) -> Asked:
        limits = self._service.limits
        correlation = codec.check_correlation(message.correlation)
        if correlation and isinstance(place, Ask):  # nobody owns `ask`: devices may count alike
            correlation = b"\0".join((correlation, (message.response_topic or "").encode(), digest))
        made_up = (
            codec.correlation_id(correlation) if correlation else self._made_up_id(place, message, digest)
        )
        if isinstance(place, Ask):
            return codec.decode_ask(
                message.payload,
                request_id=made_up,
                limits=limits,
                expiry_s=message.expiry_s,
                template=self._config.ask_template,
                max_tokens=self._config.ask_max_tokens,
            )
        return codec.decode_request(
            message.payload,
            client=place.client,
            op=place.op,
            limits=limits,
            fallback_id=made_up,
            expiry_s=message.expiry_s,
        )

    def _made_up_id(self, place: Ask | RequestTopic, message: Incoming, digest: bytes) -> str:
        """A fresh id; the one in use when a broker delivers again what is being answered already.

        What can be acknowledged under another number is another request of the same content.
        """
        if message.dup:
            for (*origin, request_id), exchange in self._running.items():
                same = (*origin, exchange.digest) == (*_client_op(place), digest)
                if same and exchange.awaits(message.mid) and request_id.startswith("auto-"):
                    return request_id
        return f"auto-{secrets.token_hex(12)}"

    def _lacking(self, needs: Needs, op: str) -> str:
        return unmet(needs, op, can_of(self._service.info()))

    def _ordinary(self, place: Ask | RequestTopic) -> Reply:
        limit_bytes = self._service.info().limits.max_reply_bytes
        if isinstance(place, Ask):
            return Reply(topic=self._topics.answer, limit_bytes=limit_bytes, plain=True)
        topic = self._topics.response(place.client, place.op)
        return Reply(topic=topic, limit_bytes=limit_bytes, node=self._node)

    def _places(self, place: Ask | RequestTopic, message: Incoming, ordinary: Reply) -> tuple[Reply, ...]:
        """The ordinary topic and the MQTT 5 response topic; correlation data goes back on both."""
        ordinary = structs.replace(ordinary, correlation=codec.check_correlation(message.correlation))
        topic = message.response_topic if self._config.response_topic else None
        if topic is None or topic == ordinary.topic:
            return (ordinary,)
        self._check(place, topic, "response topic")
        there = structs.replace(ordinary, topic=topic)
        return (ordinary, there) if self._config.ordinary_response else (there,)

    def _narrowed(
        self, place: Ask | RequestTopic, asked: Asked, places: tuple[Reply, ...]
    ) -> tuple[Reply, ...]:
        """The same places with the request's ``max_bytes``, and its ``reply_to``."""
        limit_bytes = min(asked.max_bytes or places[0].limit_bytes, places[0].limit_bytes)
        places = tuple(structs.replace(reply, limit_bytes=limit_bytes) for reply in places)
        if asked.reply_to is None or any(reply.topic == asked.reply_to for reply in places):
            return places
        self._check(place, asked.reply_to, "reply_to")
        return (*places, structs.replace(places[0], topic=asked.reply_to))

    def _check(self, place: Ask | RequestTopic, topic: str, field: str) -> None:
        if isinstance(place, RequestTopic):
            own = self._topics.response(place.client, place.op).rpartition("/")[0]
        else:
            own = self._topics.answer
        self._topics.check_reply(topic, own=own, prefixes=self._config.reply_prefixes, field=field)

    def _stream_topic(self, place: Ask | RequestTopic) -> str:
        return self._topics.stream(place.client) if isinstance(place, RequestTopic) else ""

    def _refuse(
        self,
        place: Ask | RequestTopic,
        digest: bytes,
        wanted: tuple[Reply, ...],
        failed: Failed,
        receipt: Receipt | None,
    ) -> None:
        key = (*_client_op(place), failed.id)
        self._log.warning("refused client=%s op=%s id=%s: %s: %.200s", *key, failed.code, failed.message)
        exchange = Exchange(key, digest, wanted)
        exchange.own(receipt)
        # What waited here for an acknowledgement is bounded already, and keeps it until the answer is out.
        if receipt is None and self._full():
            self._shed(exchange)
        else:
            self._spawn(self._finish(exchange, failed))

    def _full(self) -> bool:
        return len(self._tasks) >= self._service.capacity + SPARE_EXCHANGES

    def _shed(self, exchange: Exchange) -> None:
        """Say no at QoS 0, so that a flood leaves nothing waiting for a PUBACK here."""
        failed = Failed.of(exchange.key[2], Busy("too many requests at once", retry_after_s=5.0))
        if not self._line.congested:
            with contextlib.suppress(EdgeError):
                for reply in exchange.replies:
                    (said,) = rendered(reply, failed, self._line)
                    self._line.send(reply.topic, said, correlation=reply.correlation)

    async def _answer(self, exchange: Exchange, asked: Asked) -> None:
        try:
            terminal = await exchange.compute(asked, self._service, self._line)
            if isinstance(terminal, Failed) and terminal.code == "draining" and exchange.receipts:
                self._log.info("left to the next run client=%s op=%s id=%s", *exchange.key)
                return
            self._answers.remember(exchange.key, exchange.digest, terminal)
            self._note(exchange, terminal)
            if not (self._node and exchange.void):
                await self._finish(exchange, terminal)
            if isinstance(terminal, Finished):
                self.on_answer(exchange.key[0], exchange.key[1], terminal)
        finally:
            self._running.pop(exchange.key, None)

    async def _finish(self, exchange: Exchange, terminal: Terminal) -> None:
        """Publish, then acknowledge: a crash in between costs a duplicate, never an answer."""
        if await exchange.deliver(terminal, self._line):
            exchange.acknowledge()
        else:
            self._log.warning("no broker took the answer client=%s op=%s id=%s", *exchange.key)

    def _note(self, exchange: Exchange, terminal: Terminal) -> None:
        if isinstance(terminal, Failed):
            self._log.warning("failed client=%s op=%s id=%s: %s", *exchange.key, terminal.code)
        else:
            tokens = terminal.usage.completion_tokens
            self._log.info("answered client=%s op=%s id=%s tokens=%d", *exchange.key, tokens)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._closed:
            self._take_held()


def _client_op(place: Ask | RequestTopic) -> tuple[str, str]:
    return place.client, place.op
