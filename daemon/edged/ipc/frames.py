"""Length-prefixed frames, sans-I/O: bytes in, whole payloads out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 16 << 20  # the largest prompt the configuration allows is 8 MiB


class FrameError(Exception):
    """The peer sent something that is not a frame; the connection is of no more use."""


def pack(payload: bytes) -> bytes:
    """``payload`` with its length in front; raises FrameError above MAX_FRAME_BYTES."""
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(payload)} bytes exceeds {MAX_FRAME_BYTES}")
    return HEADER.pack(len(payload)) + payload


class FrameReader:
    """Collects bytes and yields the payloads that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every payload completed by ``data``; raises FrameError on an absurd length."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield payload
