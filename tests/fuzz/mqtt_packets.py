"""What a broker sends, as bytes: messages, or the end of that connection, and never more than that.

The first byte says the version (3.1.1 from 128 on) and in how large pieces the rest arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

from edged.api.errors import EdgeError
from edged.transports.mqtt.connection import Connection
from edged.transports.mqtt.endpoint import Endpoint
from tests.fuzz.log_lines import one_line_each

if TYPE_CHECKING:
    from edged.transports.mqtt.incoming import Incoming

LIMIT_S = 3.0
WORDS = (b"\x20\x02\x00\x00", b"\x20\x03\x00\x00\x00", b"\x30", b"\x32", b"\x34", b"\x40\x02", b"\x62\x02",
         b"\x90\x03", b"\xd0\x00", b"\xe0\x00", b"edged/box/ask")  # fmt: skip
LOOP = asyncio.new_event_loop()
LISTENER = socket.create_server(("127.0.0.1", 0))
LISTENER.settimeout(0)


def check(data: bytes) -> bool:
    """Whether the broker accepted the connection."""
    first, stream = data[0] if data else 0, data[1:]
    size = first & 127 or 4096
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    with one_line_each():
        return LOOP.run_until_complete(_talk("3.1.1" if first & 128 else "5", pieces))


async def _talk(version: str, pieces: list[bytes]) -> bool:
    defects: list[dict[str, Any]] = []
    LOOP.set_exception_handler(lambda _, context: defects.append(context))
    connection = Connection(_endpoint(version), _heard)
    async with asyncio.timeout(LIMIT_S):
        opening = asyncio.ensure_future(connection.open())
        broker, _ = await LOOP.sock_accept(LISTENER)
        with broker:
            accepted = await _end(connection, opening, broker, pieces)
    assert not connection.alive
    assert connection.closed.done()
    assert defects == []
    return accepted


async def _end(
    connection: Connection, opening: asyncio.Future[bool], broker: socket.socket, pieces: list[bytes]
) -> bool:
    """Say the pieces and hang up; whether the connection came to be. What it answers is not read."""
    await LOOP.sock_recv(broker, 4096)
    with contextlib.suppress(OSError):  # it hangs up when it has had enough
        for piece in pieces:
            await LOOP.sock_sendall(broker, piece)
            await asyncio.sleep(0)
        broker.shutdown(socket.SHUT_WR)
    (outcome,) = await asyncio.gather(opening, return_exceptions=True)
    await connection.closed
    if isinstance(outcome, EdgeError):
        assert outcome.message.isprintable(), outcome.message
        return False
    assert isinstance(outcome, bool), outcome
    return True


def _heard(connection: Connection, message: Incoming) -> None:
    assert isinstance(message.topic, str)
    assert isinstance(message.payload, bytes)
    assert message.response_topic is None or isinstance(message.response_topic, str)
    if message.qos:
        connection.acknowledge(message.mid)


def _endpoint(version: str) -> Endpoint:
    return Endpoint(
        host="127.0.0.1",
        port=LISTENER.getsockname()[1],
        version=version,
        client_id="edged-box",
        keepalive_s=60,
        will_topic="edged/box/status",
        will_payload=b"offline",
        receive_maximum=8,
        max_packet_bytes=1 << 20,
    )
