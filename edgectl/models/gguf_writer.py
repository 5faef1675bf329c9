"""Writes the header of a GGUF file: metadata and tensor table, in the layout of llama.cpp's ``gguf.h``."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from edgectl.models.gguf import DEFAULT_ALIGNMENT_BYTES
from edgectl.models.gguf_metadata import Array
from edgectl.models.gguf_types import ARRAY, BOOL, SCALAR_FORMATS, STRING, UINT32

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgectl.models.gguf_metadata import Value
    from edgectl.models.tensor_plan import TensorSpec

__all__ = ["encode_header"]

MAGIC: Final = b"GGUF"
VERSION: Final = 3
INT32: Final = 5
FLOAT32: Final = 6
UINT64: Final = 10
_LENGTH: Final = struct.Struct("<Q")
_TYPE: Final = struct.Struct("<I")


def encode_header(
    metadata: Mapping[str, Value],
    tensors: Sequence[TensorSpec],
    alignment_bytes: int = DEFAULT_ALIGNMENT_BYTES,
) -> bytes:
    """The bytes before the weights, padded to the alignment; the weights lie gapless in the given order.

    Integers become 32 bits wide where they fit, real numbers single precision, as converters write them.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    offset_bytes = 0
    for spec in tensors:
        parts += [_string(spec.name), _TYPE.pack(len(spec.shape)), *map(_LENGTH.pack, spec.shape)]
        parts += [_TYPE.pack(spec.type_number), _LENGTH.pack(offset_bytes)]
        offset_bytes += -(-spec.size_bytes // alignment_bytes) * alignment_bytes
    header = b"".join(parts)
    return header + bytes(-len(header) % alignment_bytes)


def _string(text: str) -> bytes:
    raw = text.encode()
    return _LENGTH.pack(len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, Array):
        items = value.items or ()
        return _TYPE.pack(ARRAY) + struct.pack("<IQ", value.item_type, len(items)) + _items(value, items)
    kind = _kind(value)
    return _TYPE.pack(kind) + _scalar(kind, value)


def _kind(value: float | bool | str) -> int:  # noqa: FBT001 - a value of the file, not a mode
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, str):
        return STRING
    if not isinstance(value, int):
        return FLOAT32
    if value < 0:
        return INT32
    return UINT32 if value < 1 << 32 else UINT64


def _scalar(kind: int, value: float | bool | str) -> bytes:  # noqa: FBT001 - a value of the file, not a mode
    if isinstance(value, str):
        return _string(value)
    if kind == BOOL:
        return bytes([bool(value)])
    return struct.pack(SCALAR_FORMATS[kind], value)


def _items(array: Array, items: Iterable[float | bool | str]) -> bytes:
    if array.item_type in SCALAR_FORMATS:
        numbers = list(items)
        return struct.pack(f"<{len(numbers)}{SCALAR_FORMATS[array.item_type][1]}", *numbers)
    return b"".join(_scalar(array.item_type, item) for item in items)
