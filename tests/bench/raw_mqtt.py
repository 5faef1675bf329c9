"""MQTT 3.1.1 by hand, on blocking sockets: the least work beside a broker that is being measured."""

from __future__ import annotations

import socket
from typing import Self

from tests.bench.errors import BenchError

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
LIMIT_S = 60.0


class RawClient:
    """One connection. ``clean`` ends its session with it."""

    def __init__(self, port: int, client_id: str, *, clean: bool = True) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        flags = 2 if clean else 0
        self._send(0x10, _text("MQTT") + bytes([4, flags]) + (600).to_bytes(2, "big") + _text(client_id))
        self.expect(CONNACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """DISCONNECT."""
        self._send(0xE0, b"")
        self._socket.close()

    def subscribe(self, topic: str, qos: int) -> None:
        self._send(0x82, b"\0\1" + _text(topic) + bytes([qos]))
        self.expect(SUBACK)

    def ping(self) -> None:
        self._send(0xC0, b"")
        self.expect(PINGRESP)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, mid: int = 1) -> None:
        """Send one message; at QoS 1 its PUBACK is to be expected."""
        packet_id = mid.to_bytes(2, "big") if qos else b""
        self._send(0x30 | qos << 1, _text(topic) + packet_id + payload)

    def take(self, *, qos: int = 1) -> None:
        """Receive one message and acknowledge it."""
        body = self.expect(PUBLISH)
        if qos:
            start = 2 + int.from_bytes(body[:2], "big")
            self._send(0x40, body[start : start + 2])

    def expect(self, kind: int) -> bytes:
        """The body of the next packet, which must be of this kind. Raises BenchError."""
        head = self._exactly(1)[0]
        length = shift = 0
        while True:
            digit = self._exactly(1)[0]
            length |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                break
        body = self._exactly(length)
        if head >> 4 != kind:
            raise BenchError(f"the broker sent a packet of kind {head >> 4} instead of {kind}")
        return body

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            more = self._socket.recv(1 << 16)
            if not more:
                raise BenchError("the broker closed the connection")
            self._buffer += more
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _send(self, head: int, body: bytes) -> None:
        length, left = b"", len(body)
        while True:
            left, digit = divmod(left, 128)
            length += bytes([digit | (128 if left else 0)])
            if not left:
                break
        self._socket.sendall(bytes([head]) + length + body)


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()
