"""The bad network between an MQTT client and its broker: it refuses, stalls, resets and repeats."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

from tests.kit.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


def packets(buffer: bytearray) -> list[bytes]:
    """The whole MQTT packets at the beginning of ``buffer``, which are taken out of it."""
    found = []
    while len(buffer) >= 2:
        length, shift, at = 0, 0, 1
        while at < len(buffer) and shift < 28:
            byte = buffer[at]
            length |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if byte < 0x80:
                break
        else:
            break
        if len(buffer) < at + length:
            break
        found.append(bytes(buffer[: at + length]))
        del buffer[: at + length]
    return found


def _body_at(packet: bytes) -> int:
    return next(n for n in range(1, 5) if packet[n] < 0x80) + 1


def packet_id(packet: bytes) -> int:
    """The packet identifier of a PUBLISH at QoS 1, or of a PUBACK."""
    at = _body_at(packet)
    if packet[0] >> 4 == PUBLISH:
        at += 2 + int.from_bytes(packet[at : at + 2])
    return int.from_bytes(packet[at : at + 2])


class FaultProxy:
    """``with FaultProxy(broker.port) as proxy``; clients connect to ``proxy.port``.

    ``connack`` says what becomes of the next CONNACKs: "" as it is, "reset" in the middle of it, "no session"
    rewritten to say that no session was kept. ``pubacks`` are reasons that the next PUBACKs to the client
    get, on version 5. With ``duplicates`` each message comes twice. What a client has of QoS 1 and did not
    acknowledge is counted. ``connects`` are the CONNECT packets of all connections.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self.connack = ""
        self.duplicates = False
        self.pubacks: list[int] = []
        self.attempts = 0
        self.messages = 0  # at QoS 1, to the client
        self.unacknowledged = 0  # on the newest connection
        self.most_unacknowledged = 0
        self.connects: list[bytes] = []
        self._upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._answering = True
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._flowing.set()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def listen(self) -> None:
        """Take connections (again)."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Nobody listens any more, and every connection is reset."""
        self._do(self._refuse())

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        self._do(self._cut())

    def half_open(self) -> None:
        """From now on connections are taken, and nobody answers on them; those that are there stall."""
        self._do(self._set(flowing=False, answering=False))

    def stall(self) -> None:
        """Nothing moves in either direction until `resume`; `cut` loses what was read and not passed on."""
        self._do(self._set(flowing=False, answering=True))

    def resume(self) -> None:
        self._do(self._set(flowing=True, answering=True))

    # --- in the proxy's own thread ------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for end in tuple(self._ends):
            _reset(end)
        self._ends.clear()

    async def _set(self, *, flowing: bool, answering: bool) -> None:
        self._answering = answering
        self._flowing.set() if flowing else self._flowing.clear()

    async def _shut(self) -> None:
        await self._refuse()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._ends.add(writer)
        self.attempts += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._answering:
                await self._flowing.wait()
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            self._ends.add(inner_writer)
            link = _Link(self, writer)
            both = [
                asyncio.create_task(self._pump(reader, inner_writer, link.from_client)),
                asyncio.create_task(self._pump(inner_reader, writer, link.from_broker)),
            ]
            self._tasks.update(both)
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in both:
                    pump.cancel()
                await asyncio.gather(*both, return_exceptions=True)
                self._tasks.difference_update(both)
                self._ends.discard(inner_writer)
                inner_writer.close()
        self._ends.discard(writer)
        self._tasks.discard(task)
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Any) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(look(data))
                await writer.drain()


class _Link:
    """One connection: sees what passes, and changes what it was told to."""

    def __init__(self, proxy: FaultProxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._buffers = bytearray(), bytearray()
        self._open: set[int] = set()

    def from_client(self, data: bytes) -> bytes:
        self._buffers[0].extend(data)
        for packet in packets(self._buffers[0]):
            if packet[0] >> 4 == CONNECT:
                self._proxy.connects.append(packet)
            if packet[0] >> 4 == PUBACK:
                self._open.discard(packet_id(packet))
                self._proxy.unacknowledged = len(self._open)
        return data

    def from_broker(self, data: bytes) -> bytes:
        self._buffers[1].extend(data)
        passed = b""
        for packet in packets(self._buffers[1]):
            kind, qos = packet[0] >> 4, packet[0] >> 1 & 3
            if kind == CONNACK and self._proxy.connack == "reset":
                self._client.write(packet[:2])
                _reset(self._client)
                return b""
            if kind == CONNACK and self._proxy.connack == "no session":
                at = _body_at(packet)
                passed += packet[:at] + b"\0" + packet[at + 1 :]
                continue
            if kind == PUBACK and self._proxy.pubacks:
                passed += b"\x40\x03" + packet_id(packet).to_bytes(2) + bytes([self._proxy.pubacks.pop(0)])
                continue
            passed += packet
            if kind == PUBLISH and qos == 1:
                self._proxy.messages += 1
                self._open.add(packet_id(packet))
                self._proxy.unacknowledged = len(self._open)
                self._proxy.most_unacknowledged = max(self._proxy.most_unacknowledged, len(self._open))
                if self._proxy.duplicates:
                    passed += bytes([packet[0] | 8]) + packet[1:]
        return passed


def _reset(end: asyncio.StreamWriter) -> None:
    plug = end.get_extra_info("socket")
    if plug is not None and plug.fileno() >= 0:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
