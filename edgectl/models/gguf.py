"""The header of a GGUF model file: metadata and tensor table, checked before native code sees them.

The layout follows the description in llama.cpp's ``gguf.h``. Weights are never read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.models.gguf_cursor import Cursor, damaged
from edgectl.models.gguf_metadata import ALIGNMENT_KEY, Array, Value, read_metadata
from edgectl.models.gguf_tensors import Tensor, read_tensors
from edgectl.models.gguf_types import FILE_TYPE_GUESSED, FILE_TYPES
from edged.api.errors import ModelUnusable

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import BinaryIO

__all__ = ["Array", "Header", "Tensor", "Value", "read_header", "read_model"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had 32-bit counts and is older than every supported model
MAX_KEYS = 1 << 16  # real files have fewer than 100
MAX_TENSORS = 100_000  # the largest mixture-of-experts files have some thousands
DEFAULT_ALIGNMENT_BYTES = 32
MAX_ALIGNMENT_BYTES = 1 << 20


class Header(Struct, frozen=True, kw_only=True):
    """What a GGUF file says about itself. ``data_offset_bytes`` is where the weights begin."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    alignment_bytes: int
    data_offset_bytes: int
    file_size_bytes: int

    def text(self, key: str) -> str | None:
        """The string under ``key``; None when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The integer under ``key``; None when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def of_architecture(self, name: str) -> int | None:
        """The integer under ``<architecture>.<name>``, e.g. ``of_architecture("block_count")``."""
        return self.integer(f"{self.architecture}.{name}")

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str | None:
        return self.text("general.name")

    @property
    def licence(self) -> str | None:
        return self.text("general.license")

    @property
    def kind(self) -> str:
        """``general.type``: "model" unless the file says "adapter", "mmproj", ..."""
        return self.text("general.type") or "model"

    @property
    def split_count(self) -> int:
        """Files the model is spread over; 1 for a whole model."""
        return self.integer("split.count") or 1

    @property
    def context_length(self) -> int | None:
        """Tokens the model was trained for."""
        return self.of_architecture("context_length")

    @property
    def block_count(self) -> int | None:
        """Layers."""
        return self.of_architecture("block_count")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the default chat template. Untrusted: only a sandbox may render it."""
        return self.text("tokenizer.chat_template")

    @property
    def parameter_count(self) -> int:
        """Weights in the tensor table."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all weights, without the padding between tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def quantization(self) -> str:
        """The label people use ("Q4_K_M"); without one in the file, the type with most bytes."""
        file_type = self.integer("general.file_type")
        label = FILE_TYPES.get(file_type & ~FILE_TYPE_GUESSED) if file_type is not None else None
        if label:
            return label
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type_name] += tensor.size_bytes
        return sizes.most_common(1)[0][0] if sizes else "unknown"


def read_header(file: Path | BinaryIO, *, keep: Collection[str] = ()) -> Header:
    """Read and check the header of ``file``; arrays named in ``keep`` are kept whatever their length.

    Other arrays longer than some thousand items are passed over and keep their type and length only.
    Raises IntegrityError naming the rule that the file breaks, OSError when it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _read(opened, frozenset(keep))
    return _read(file, frozenset(keep))


def _read(file: BinaryIO, keep: frozenset[str]) -> Header:
    cursor = Cursor(file, file.seek(0, os.SEEK_END))
    version = _read_version(cursor)
    tensor_count = cursor.u64("the number of tensors")
    key_count = cursor.u64("the number of metadata keys")
    if tensor_count > MAX_TENSORS:
        raise damaged(f"it claims {tensor_count:,} tensors, more than {MAX_TENSORS:,}", cursor.position)
    if key_count > MAX_KEYS:
        raise damaged(f"it claims {key_count:,} metadata keys, more than {MAX_KEYS:,}", cursor.position)
    metadata = read_metadata(cursor, key_count, keep)
    if not isinstance(metadata.get("general.architecture"), str):
        raise damaged("general.architecture is missing or not a string", cursor.position)
    alignment = _alignment(metadata, cursor)
    tensors = read_tensors(cursor, tensor_count, alignment)
    data_offset = -(-cursor.position // alignment) * alignment
    if tensors:
        end = data_offset + tensors[-1].offset_bytes + tensors[-1].size_bytes
        if end > cursor.size_bytes:
            raise damaged(
                f"tensor {tensors[-1].name!r} ends at byte {end:,} of a file of {cursor.size_bytes:,}",
                cursor.position,
            )
    return Header(
        version=version,
        metadata=metadata,
        tensors=tensors,
        alignment_bytes=alignment,
        data_offset_bytes=data_offset,
        file_size_bytes=cursor.size_bytes,
    )


def _read_version(cursor: Cursor) -> int:
    if cursor.take(4, "the magic number") != MAGIC:
        raise damaged("it does not begin with GGUF", 0)
    version = cursor.u32("the version")
    if version and not version & 0xFFFF:
        raise damaged("it is written for big-endian machines", cursor.position)
    if version not in VERSIONS:
        raise damaged(f"its version is {version}; versions 2 and 3 can be read", cursor.position)
    return version


def _alignment(metadata: Mapping[str, Value], cursor: Cursor) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT_BYTES)
    if (
        not isinstance(alignment, int)
        or not 1 <= alignment <= MAX_ALIGNMENT_BYTES
        or alignment & (alignment - 1)
    ):
        raise damaged(f"{ALIGNMENT_KEY} is {alignment}, not a power of two up to 1 MiB", cursor.position)
    return alignment


def read_model(file: Path) -> Header:
    """The header of ``file``, which must be a whole model with weights.

    Raises IntegrityError for a damaged or hostile file, ModelUnusable for a valid one that is no whole model.
    """
    header = read_header(file)
    if header.split_count > 1:
        raise ModelUnusable(
            f"{header.name or 'the file'} is one of {header.split_count} parts of a model",
            hint="join the parts with llama.cpp's `llama-gguf-split --merge`, or take a smaller quantization",
        )
    if header.kind != "model" or header.architecture == "clip":
        raise ModelUnusable(
            f"{header.name or 'the file'} is no language model, but {header.kind} ({header.architecture})",
            hint="name the file of the model itself",
        )
    if not header.tensors:
        raise ModelUnusable(
            "the file is a vocabulary without weights", hint="name the file of the model itself"
        )
    return header
