"""What a GGUF header says about its model, in the words of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from edgectl.models.gguf import Header


class Description(Struct, frozen=True, kw_only=True):
    """The facts of one file; None where it does not say. ``architecture`` is llama.cpp's name for it."""

    architecture: str
    name: str | None
    kind: str  # "model", or "adapter", "mmproj", ...
    parts: int  # files the model is spread over
    quantization: str
    parameters: int
    context_tokens: int | None  # trained for
    layers: int | None
    embedding: int | None  # width of a layer's input
    heads: int | None
    vocabulary_tokens: int | None
    has_chat_template: bool
    licence: str | None
    size_bytes: int
    header_bytes: int
    weights_bytes: int
    tensors: int


def describe(header: Header) -> Description:
    """The facts of ``header``, as the file tells them; nothing is checked against the catalogue."""
    from edgectl.models.gguf import Array

    vocabulary = header.metadata.get("tokenizer.ggml.tokens")
    return Description(
        architecture=header.architecture,
        name=header.name,
        kind=header.kind,
        parts=header.split_count,
        quantization=header.quantization,
        parameters=header.parameter_count,
        context_tokens=header.context_length,
        layers=header.block_count,
        embedding=header.of_architecture("embedding_length"),
        heads=header.of_architecture("attention.head_count"),
        vocabulary_tokens=vocabulary.length if isinstance(vocabulary, Array) else None,
        has_chat_template=bool(header.chat_template),
        licence=header.licence,
        size_bytes=header.file_size_bytes,
        header_bytes=min(header.data_offset_bytes, header.file_size_bytes),
        weights_bytes=header.tensor_bytes,
        tensors=len(header.tensors),
    )
