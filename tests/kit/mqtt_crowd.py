"""A crowd of MQTT 3.1.1 clients in one event loop: each a socket and a few bytes, so that a thousand fit.

They subscribe at QoS 0 to what a box answers them and note when each message came.
"""

from __future__ import annotations

import asyncio
import json
import resource
import struct
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNACK, PUBLISH, SUBACK = 2, 3, 9
AT_ONCE = 50  # connections that are made at the same time; more overrun a broker's backlog
SPARE_FILES = 256
LIMIT_S = 30.0


class Member(asyncio.Protocol):
    """One client. ``heard`` are (time, topic, payload); ``news`` is set at each of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.news = asyncio.Event()
        self.heard: list[tuple[float, str, bytes]] = []
        self._bytes = bytearray()
        self._published = 0  # at QoS 1, for packet ids
        self._transport: asyncio.Transport | None = None
        self._wanted: dict[int, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in self._wanted.values():
            if not waiting.done():
                waiting.set_exception(exc or ConnectionError("the broker hung up"))

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        now = time.monotonic()
        for kind, body in self._packets():
            if kind == PUBLISH:
                (length,) = struct.unpack_from(">H", body)
                self.heard.append((now, body[2 : 2 + length].decode(), bytes(body[2 + length :])))
                self.news.set()
            elif kind in self._wanted:
                self._wanted.pop(kind).set_result(body)

    async def connect(self, port: int, topics: tuple[str, ...]) -> None:
        """Connect and subscribe; raises AssertionError when the broker does not let it."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", port)
        hello = _text("MQTT") + bytes([4, 2]) + struct.pack(">H", 600) + _text(self.name)
        assert (await self._call(1 << 4, hello, CONNACK))[1] == 0, "the broker refused a member of the crowd"
        wanted = struct.pack(">H", 1) + b"".join(_text(topic) + b"\0" for topic in topics)
        assert 0x80 not in (await self._call(0x82, wanted, SUBACK))[2:], "a subscription was refused"

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        """At QoS 0 or 1; nobody waits for the PUBACK."""
        self._published += qos
        packet_id = struct.pack(">H", self._published) if qos else b""
        self._send(PUBLISH << 4 | qos << 1, _text(topic) + packet_id + payload)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _call(self, first: int, body: bytes, answer: int) -> bytes:
        self._wanted[answer] = asyncio.get_running_loop().create_future()
        waiting = self._wanted[answer]
        self._send(first, body)
        return await asyncio.wait_for(waiting, LIMIT_S)

    def _send(self, first: int, body: bytes) -> None:
        assert self._transport
        self._transport.write(bytes([first]) + _length(len(body)) + body)

    def _packets(self) -> Iterator[tuple[int, bytes]]:
        """Whole packets that have arrived: type and body."""
        while len(self._bytes) >= 2:
            length, end = 0, 1
            while True:
                if end >= len(self._bytes):
                    return
                digit = self._bytes[end]
                length |= (digit & 0x7F) << 7 * (end - 1)
                end += 1
                if digit < 0x80:
                    break
            if len(self._bytes) < end + length:
                return
            body = bytes(self._bytes[end : end + length])
            kind = self._bytes[0] >> 4
            del self._bytes[: end + length]
            yield kind, body


class Crowd:
    """``async with Crowd(port, "box", 1000) as crowd``: connected clients that may ask box ``node``."""

    def __init__(self, port: int, node: str, size: int, *, name: str = "crowd", qos: int = 0) -> None:
        self._port = port
        self._qos = qos
        self._root = f"edged/{node}"
        self.members = [Member(f"{name}-{number}") for number in range(size)]
        self.sent: dict[str, float] = {}  # id → when

    async def __aenter__(self) -> Self:
        allow_files(len(self.members))
        for start in range(0, len(self.members), AT_ONCE):
            await asyncio.gather(
                *(
                    member.connect(self._port, (f"{self._root}/response/{member.name}/chat",))
                    for member in self.members[start : start + AT_ONCE]
                )
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            member.close()
        await asyncio.sleep(0)  # transports end in the next turn of the loop

    def ask(self, number: int, **fields: Any) -> None:
        """Request ``number``, from the next member in turn."""
        member = self.members[number % len(self.members)]
        payload = json.dumps({"id": str(number), "prompt": f"question {number}", **fields}).encode()
        self.sent[str(number)] = time.monotonic()
        member.publish(f"{self._root}/request/{member.name}/chat", payload, self._qos)

    async def flood(self, requests: int, per_s: float, **fields: Any) -> None:
        """Ask so many times at an even rate."""
        began = time.monotonic()
        for number in range(requests):
            due = began + number / per_s
            if (early_s := due - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            self.ask(number, **fields)

    def answers(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        """id → (time, message) of every answer that came, whose last part it is."""
        found: dict[str, list[tuple[float, dict[str, Any]]]] = {name: [] for name in self.sent}
        for member in self.members:
            for when, _, payload in member.heard:
                message = json.loads(payload)
                if message["part"] == message["parts"]:
                    found.setdefault(message["id"], []).append((when, message))
        return found

    async def answered(self, limit_s: float = LIMIT_S) -> None:
        """Until each request has an answer, or ``limit_s`` is over."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if sum(len(member.heard) for member in self.members) >= len(self.sent):
                return
            await asyncio.sleep(0.05)


def allow_files(count: int) -> None:
    """Let this process, and what it starts from here on, open so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def _length(count: int) -> bytes:
    digits = bytearray()
    while True:
        count, digit = count >> 7, count & 0x7F
        digits.append(digit | (0x80 if count else 0))
        if not count:
            return bytes(digits)
