"""One request from the topic it came on to the acknowledgement of its message."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from edged.api.errors import Internal, TooLarge
from edged.api.events import Accepted, Channel, Delta, Failed
from edged.transports.mqtt import replies
from edged.transports.mqtt.connection import Connection

if TYPE_CHECKING:
    from edged.api.events import Event, Terminal
    from edged.transports.mqtt.answers import Key
    from edged.transports.mqtt.codec import Asked
    from edged.transports.mqtt.line import Line
    from edged.transports.port import Service

MAX_PLACES = 16  # where one answer goes; more is a client that repeats itself with new reply topics

log = logging.getLogger(__name__)


class Reply(Struct, frozen=True, kw_only=True):
    """One place where the terminal message goes, and how it has to look there."""

    topic: str
    limit_bytes: int
    correlation: bytes | None = None
    plain: bool = False
    node: str = ""  # of a pool: told in the answer


def rendered(reply: Reply, terminal: Terminal, line: Line) -> list[bytes]:
    """The messages that ``terminal`` is at ``reply``; raises TooLarge when nothing fits.

    The name of the box is left out where it has no room.
    """
    limit_bytes = line.fitting(reply.topic, reply.limit_bytes, reply.correlation)
    if reply.plain:
        return replies.answer(terminal, limit_bytes)
    node = b',"node":"%s"' % reply.node.encode() if reply.node else b""
    if isinstance(terminal, Failed):
        shortest = replies.response(structs.replace(terminal, message=""), limit_bytes)
        node = node if len(shortest[0]) + len(node) <= limit_bytes else b""
    payloads = replies.response(terminal, limit_bytes - len(node))
    return [one[:-1] + node + b"}" for one in payloads] if node else payloads


class Receipt(Struct, frozen=True):
    """The right to acknowledge a message; it is good on the connection that delivered it only."""

    connection: Connection
    mid: int

    def acknowledge(self) -> None:
        self.connection.acknowledge(self.mid)


class Exchange:
    """A request that is being answered, everyone who waits for it, and what must be acknowledged."""

    def __init__(self, key: Key, digest: bytes, reply_to: tuple[Reply, ...], stream_topic: str = "") -> None:
        self.key = key
        self.digest = digest
        self.replies: list[Reply] = list(reply_to)
        self.receipts: list[Receipt] = []
        self.stream_topic = stream_topic  # empty: nothing is told before the end

    def attach(self, reply_to: tuple[Reply, ...], receipt: Receipt | None) -> bool:
        """Answer one more delivery of the same request, each place once; False when there are too many."""
        new = [reply for reply in reply_to if reply not in self.replies]
        if len(self.replies) + len(new) > MAX_PLACES:
            return False
        self.replies += new
        self.own(receipt)
        return True

    def own(self, receipt: Receipt | None) -> None:
        """Take the duty to acknowledge a message; duties of connections that are gone are void."""
        self.receipts = [one for one in self.receipts if one.connection.alive]
        if receipt is not None:
            self.receipts.append(receipt)

    @property
    def void(self) -> bool:
        """All connections it came on at QoS 1 are gone: the broker gives it to somebody again."""
        return bool(self.receipts) and not any(one.connection.alive for one in self.receipts)

    def awaits(self, mid: int) -> bool:
        """Whether the message ``mid`` may be one that it came on at QoS 1, delivered again."""
        return bool(self.receipts) and all(one.mid == mid for one in self.receipts if one.connection.alive)

    async def compute(self, asked: Asked, service: Service, line: Line) -> Terminal:
        """Have the service answer, streaming on the way; exactly one terminal event comes back."""
        stream = Stream(self, asked, line)
        failure = Internal("the request failed inside edged; its log has the details")
        terminal: Terminal = Failed.of(asked.request.id, failure)
        try:
            async with contextlib.aclosing(service.submit(asked.request)) as events:
                async for event in events:
                    if isinstance(event, Accepted | Delta):
                        stream.tell(event)
                    else:
                        terminal = event
        except Exception:  # a task root; ids only, the text stays out of the log
            log.exception("request failed inside edged client=%s op=%s id=%s", *self.key)
        stream.finish(terminal)
        return terminal

    async def deliver(self, terminal: Terminal, line: Line) -> bool:
        """Publish ``terminal`` wherever it is awaited; False when a broker never took it."""
        while self.replies:  # a duplicate that comes while we publish is answered again
            if not await self._deliver_to(self.replies.pop(0), terminal, line):
                return False
        return True

    async def _deliver_to(self, reply: Reply, terminal: Terminal, line: Line) -> bool:
        try:
            payloads = rendered(reply, terminal, line)
        except TooLarge as error:
            log.warning("cannot answer client=%s op=%s id=%s: %s", *self.key, error.message)
            return True
        with line.outbox.holding(sum(map(len, payloads))) as parcel:
            for payload in payloads:
                refused = await line.deliver(parcel, reply.topic, payload, correlation=reply.correlation)
                if refused is None:
                    return False
                if refused:
                    log.warning("the broker refused an answer client=%s op=%s id=%s: %s", *self.key, refused)
                    return True
        return True

    def acknowledge(self) -> None:
        while self.receipts:
            self.receipts.pop().acknowledge()


KINDS: dict[Channel, str] = {"reasoning": "reasoning", "text": "delta"}  # in the order they are thought of


class Stream:
    """What a client hears on its stream topic before the answer.

    While the broker is slow or away, text gathers here and goes out as one longer piece: what waits
    is bounded by the length of the answer, whatever the broker does.
    """

    def __init__(self, exchange: Exchange, asked: Asked, line: Line) -> None:
        self._topic = exchange.stream_topic
        self._deltas = asked.stream
        self._limit_bytes = min(reply.limit_bytes for reply in exchange.replies)
        self._id = asked.request.id
        self._line = line
        self._waiting: dict[Channel, str] = {"reasoning": "", "text": ""}
        self._seq: dict[Channel, int] = {"reasoning": 0, "text": 0}

    def tell(self, event: Event) -> None:
        if not self._topic:
            return
        if isinstance(event, Accepted):
            self._line.send(self._topic, replies.accepted(event))
        elif isinstance(event, Delta) and self._deltas:
            self._waiting[event.channel] += event.text
            if not self._line.congested:
                self._flush()

    def finish(self, terminal: Terminal) -> None:
        if self._topic and self._deltas:
            self._flush()
            self._line.send(self._topic, replies.done(terminal, self._seq["text"]))

    def _flush(self) -> None:
        limit_bytes = self._line.fitting(self._topic, self._limit_bytes)
        for channel, kind in KINDS.items():
            text, self._waiting[channel] = self._waiting[channel], ""
            if not text:
                continue
            for payload in replies.deltas(self._id, self._seq[channel], text, limit_bytes, kind):
                self._line.send(self._topic, payload)
                self._seq[channel] += 1
