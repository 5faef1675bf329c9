"""What a model file says of itself."""

from __future__ import annotations

import ctypes

from llama_cpp import llama_cpp as api

MAX_VALUE_BYTES = 512  # a longer one is cut


def metadata(model: int, key: str) -> str:
    """The value of ``key`` as text; "" when there is none."""
    buffer = ctypes.create_string_buffer(MAX_VALUE_BYTES)
    length = api.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length > 0 else ""
