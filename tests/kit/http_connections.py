"""Raw connections to an HTTP server under test, and a server that is in a hurry."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager

from edged.transports.http.connection import Patience
from tests.kit.http_serving import DEADLINE_S, close

HURRY = Patience(
    header_s=0.2, body_s=0.2, keep_alive_s=0.2, write_s=0.2, comment_s=0.05, linger_s=0.1, farewell_s=0.1
)


@asynccontextmanager
async def connected(box):
    reader, writer = await box.connect()
    try:
        yield reader, writer
    finally:
        await close(writer)


async def body_of(reader) -> dict:
    """The JSON of one answer with a content length; its status under "status"."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    body = json.loads(await asyncio.wait_for(reader.readexactly(length), DEADLINE_S))
    return {**body, "status": int(head.split()[1])}


def reset(writer) -> None:
    """Hang up the hard way: the peer gets RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def read_all(reader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""
