"""The tensor table of a GGUF header: names, shapes, types and places of the weights."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from edgectl.models.gguf_cursor import Cursor, damaged
from edgectl.models.gguf_metadata import decode_name
from edgectl.models.gguf_types import TENSOR_TYPES

MAX_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES: Final = 63  # GGML_MAX_NAME less its terminator
MAX_ELEMENTS: Final = (1 << 63) - 1  # ggml counts elements in int64_t


class Tensor(Struct, frozen=True, gc=False):
    """One row. ``shape`` is fastest-varying first; ``offset_bytes`` counts from the start of the weights."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    offset_bytes: int

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type_number][0]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        _, block_elements, block_bytes = TENSOR_TYPES[self.type_number]
        return self.elements // block_elements * block_bytes


def read_tensors(cursor: Cursor, count: int, alignment_bytes: int) -> tuple[Tensor, ...]:
    """The next ``count`` rows, which must describe gapless, aligned weights. Raises IntegrityError.

    The rule about gaps is the engine's own (llama.cpp refuses other files); it also excludes overlaps.
    """
    tensors: list[Tensor] = []
    names: set[str] = set()
    expected = 0
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in names:
            raise damaged(f"tensor {tensor.name!r} appears twice", cursor.position)
        if tensor.offset_bytes != expected:
            raise damaged(
                f"tensor {tensor.name!r} lies at {tensor.offset_bytes:,}, where {expected:,} is next",
                cursor.position,
            )
        expected += -(-tensor.size_bytes // alignment_bytes) * alignment_bytes
        if expected - alignment_bytes > cursor.size_bytes:
            raise damaged(f"tensor {tensor.name!r} ends past the end of the file", cursor.position)
        names.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor(cursor: Cursor) -> Tensor:
    raw = cursor.string("a tensor's name", limit=MAX_NAME_BYTES)
    name = decode_name(raw, "a tensor's name", cursor.position)
    dimensions = cursor.u32(f"the number of dimensions of {name!r}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise damaged(f"tensor {name!r} has {dimensions} dimensions, not 1 to 4", cursor.position)
    shape = tuple(cursor.u64(f"the shape of {name!r}") for _ in range(dimensions))
    if 0 in shape or math.prod(shape) > MAX_ELEMENTS:
        raise damaged(f"tensor {name!r} has the impossible shape {shape}", cursor.position)
    type_number = cursor.u32(f"the type of {name!r}")
    if type_number not in TENSOR_TYPES:
        raise damaged(f"tensor {name!r} has the unknown type {type_number}", cursor.position)
    label, block_elements, _ = TENSOR_TYPES[type_number]
    if shape[0] % block_elements:
        raise damaged(
            f"tensor {name!r} has rows of {shape[0]}, not whole blocks of {label} ({block_elements})",
            cursor.position,
        )
    return Tensor(name, shape, type_number, cursor.u64(f"the offset of {name!r}"))
