"""The metadata of a GGUF header: keys and values, with bounds on what is kept in memory."""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from msgspec import Struct

from edgectl.models.gguf_cursor import Cursor, damaged
from edgectl.models.gguf_types import ARRAY, BOOL, SCALAR_FORMATS, STRING, UINT32

ALIGNMENT_KEY: Final = "general.alignment"
MAX_KEY_BYTES: Final = (1 << 16) - 1  # the limit of the format
MAX_ARRAY_STRINGS: Final = 1 << 22  # in the whole header; a vocabulary and its merges are some 500,000
KEPT_ITEMS_AN_ARRAY: Final = 4096  # longer arrays are vocabularies, which only a tokenizer needs
KEPT_ITEMS: Final = 1 << 18  # unasked, in the whole header
KEPT_TEXT_BYTES: Final = 64 << 20  # strings kept, in the whole header


class Array(Struct, frozen=True):
    """An array value; ``items`` is None when it was too long to keep unasked."""

    item_type: int
    length: int
    items: tuple[int | float | bool | str, ...] | None = None


Value: TypeAlias = int | float | bool | str | Array

_SCALARS: Final = {number: struct.Struct(layout) for number, layout in SCALAR_FORMATS.items()}


def read_metadata(cursor: Cursor, count: int, keep: frozenset[str]) -> dict[str, Value]:
    """The next ``count`` pairs. Raises IntegrityError."""
    reader = _MetadataReader(cursor, keep)
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = _key(cursor)
        if key in metadata:
            raise damaged(f"key {key!r} appears twice", cursor.position)
        metadata[key] = reader.value(key)
    return metadata


def decode_name(raw: bytes, what: str, position: int) -> str:
    """``raw`` as text; names must be UTF-8, not empty and without NUL."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise damaged(f"{what} is not UTF-8", position) from None
    if not name or "\x00" in name:
        raise damaged(f"{what} is empty or holds a NUL byte", position)
    return name


def _key(cursor: Cursor) -> str:
    return decode_name(cursor.string("a key", limit=MAX_KEY_BYTES), "a key", cursor.position)


class _MetadataReader:
    """Reads values and counts down what may still be kept."""

    def __init__(self, cursor: Cursor, keep: frozenset[str]) -> None:
        self._cursor = cursor
        self._keep = keep
        self._strings_left = MAX_ARRAY_STRINGS
        self._items_left = KEPT_ITEMS
        self._text_left_bytes = KEPT_TEXT_BYTES

    def value(self, key: str) -> Value:
        kind = self._cursor.u32(f"the type of {key!r}")
        if key == ALIGNMENT_KEY and kind != UINT32:  # llama.cpp asserts this, which would abort it
            raise damaged(f"{key} is not a 32-bit unsigned number", self._cursor.position)
        return self._array(key) if kind == ARRAY else self._scalar(kind, key)

    def _scalar(self, kind: int, key: str) -> int | float | bool | str:
        if layout := _SCALARS.get(kind):
            return self._cursor.number(layout, f"the value of {key!r}")
        if kind == STRING:
            return self._text(key)
        if kind == BOOL:
            return self._bool(key)
        raise damaged(f"{key!r} has the unknown value type {kind}", self._cursor.position)

    def _bool(self, key: str) -> bool:
        byte = self._cursor.take(1, f"the value of {key!r}")[0]
        if byte > 1:
            raise damaged(f"{key!r} holds a truth value of {byte}", self._cursor.position)
        return bool(byte)

    def _text(self, key: str) -> str:
        raw = self._cursor.string(f"the value of {key!r}")
        self._text_left_bytes -= len(raw)
        if self._text_left_bytes < 0:
            raise damaged(
                f"its strings take more than {KEPT_TEXT_BYTES:,} bytes at {key!r}", self._cursor.position
            )
        return raw.decode("utf-8", "replace")  # vocabularies hold pieces of code points

    def _array(self, key: str) -> Array:
        kind = self._cursor.u32(f"the item type of {key!r}")
        length = self._cursor.u64(f"the length of {key!r}")
        if kind == ARRAY:
            raise damaged(f"{key!r} is an array of arrays, which no engine reads", self._cursor.position)
        if kind not in _SCALARS and kind not in (BOOL, STRING):
            raise damaged(f"{key!r} has the unknown item type {kind}", self._cursor.position)
        if kind == STRING:
            self._count_strings(length, key)
        if not self._wanted(key, length):
            self._skip_items(kind, length, key)
            return Array(kind, length)
        return Array(kind, length, self._items(kind, length, key))

    def _count_strings(self, length: int, key: str) -> None:
        self._strings_left -= length
        if self._strings_left < 0:
            raise damaged(
                f"{key!r} claims {length:,} strings; a header may have {MAX_ARRAY_STRINGS:,}",
                self._cursor.position,
            )

    def _wanted(self, key: str, length: int) -> bool:
        if key in self._keep:
            if length > MAX_ARRAY_STRINGS:
                raise damaged(f"{key!r} claims {length:,} items", self._cursor.position)
            return True
        if length > min(KEPT_ITEMS_AN_ARRAY, self._items_left):
            return False
        self._items_left -= length
        return True

    def _items(self, kind: int, length: int, key: str) -> tuple[int | float | bool | str, ...]:
        return tuple(self._scalar(kind, key) for _ in range(length))

    def _skip_items(self, kind: int, length: int, key: str) -> None:
        what = f"the items of {key!r}"
        if kind != STRING:
            self._cursor.skip(length * (_SCALARS[kind].size if kind in _SCALARS else 1), what)
            return
        for _ in range(length):
            self._cursor.skip_string(what)
