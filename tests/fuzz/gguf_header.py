"""Bytes as a GGUF file: whatever they are, reading its header ends in one or in an IntegrityError."""

from __future__ import annotations

import io

import msgspec

from edgectl.errors import IntegrityError
from edgectl.models.description import describe
from edgectl.models.gguf import read_header

WORDS = ("GGUF", "general.architecture", "general.alignment", "tokenizer.ggml.tokens", "blk.0.", ".weight")


def check(data: bytes) -> bool:
    """Whether ``data`` has a valid header. Raises what the reader must not, or AssertionError for a lie."""
    try:
        header = read_header(io.BytesIO(data))
    except IntegrityError:
        return False
    assert header.file_size_bytes == len(data)
    assert header.data_offset_bytes % header.alignment_bytes == 0
    end_bytes = 0
    for tensor in header.tensors:
        assert tensor.offset_bytes % header.alignment_bytes == 0
        assert tensor.offset_bytes >= end_bytes, "tensors overlap"
        end_bytes = tensor.offset_bytes + tensor.size_bytes
    assert not header.tensors or header.data_offset_bytes + end_bytes <= len(data), "weights past the end"
    msgspec.json.encode(describe(header))
    return True
