"""Reads little-endian numbers and strings of a GGUF header, never past the file or a cap."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from edgectl.errors import IntegrityError

if TYPE_CHECKING:
    from typing import BinaryIO

WINDOW_BYTES: Final = 1 << 18  # read at a time; a header is read front to back
MAX_HEADER_BYTES: Final = 512 << 20  # the largest vocabularies need about 12 MiB
MAX_STRING_BYTES: Final = 64 << 20  # chat templates are some ten KiB
HINT: Final = "the file is damaged or not a model; fetch it again from a source you trust"


def damaged(what: str, position: int) -> IntegrityError:
    """The error for a header that breaks rule ``what`` near byte ``position``."""
    return IntegrityError(f"not a valid GGUF file: {what} (near byte {position:,})", hint=HINT)


class Cursor:
    """A position in a header. Every method raises IntegrityError instead of leaving the file."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self._limit = min(size_bytes, MAX_HEADER_BYTES)
        self._window = b""
        self._start = 0  # file position of the window's first byte
        self._offset = 0  # of the cursor inside the window; may lie past its end after a skip

    @property
    def position(self) -> int:
        return self._start + self._offset

    def number(self, layout: struct.Struct, what: str) -> int | float:
        """The next number; ``what`` names it should the file end first."""
        end = self._offset + layout.size
        if end > len(self._window):
            self._fill(layout.size, what)
            end = layout.size
        value: int | float = layout.unpack_from(self._window, end - layout.size)[0]
        self._offset = end
        return value

    def u32(self, what: str) -> int:
        return int(self.number(_U32, what))

    def u64(self, what: str) -> int:
        return int(self.number(_U64, what))

    def take(self, length: int, what: str) -> bytes:
        """The next ``length`` bytes."""
        end = self._offset + length
        if end > len(self._window):
            self._fill(length, what)
            end = length
        data = self._window[end - length : end]
        self._offset = end
        return data

    def skip(self, length: int, what: str) -> None:
        self._check(length, what)
        self._offset += length

    def string(self, what: str, *, limit: int = MAX_STRING_BYTES) -> bytes:
        """The next string: a 64-bit length, then that many bytes."""
        return self.take(self._length(what, limit), what)

    def skip_string(self, what: str) -> int:
        """Pass over a string; its length in bytes."""
        length = self._length(what, MAX_STRING_BYTES)
        self.skip(length, what)
        return length

    def _length(self, what: str, limit: int) -> int:
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise damaged(f"{what} claims {length:,} bytes, more than {limit:,}", self.position)
        return length

    def _check(self, length: int, what: str) -> None:
        if self.position + length <= self._limit:
            return
        if self.position + length <= self.size_bytes:
            raise damaged(f"the header is longer than {MAX_HEADER_BYTES:,} bytes at {what}", self.position)
        raise damaged(f"the file ends inside {what}", self.position)

    def _fill(self, length: int, what: str) -> None:
        """Make the window start at the cursor and hold at least ``length`` bytes."""
        self._check(length, what)
        position = self.position
        self._file.seek(position)
        wanted = min(max(length, WINDOW_BYTES), self.size_bytes - position)
        parts = []
        while wanted > 0 and (data := self._file.read(wanted)):
            parts.append(data)
            wanted -= len(data)
        self._window, self._start, self._offset = b"".join(parts), position, 0
        if len(self._window) < length:  # the file shrank while it was read
            raise damaged(f"the file ends inside {what}", position)


_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
