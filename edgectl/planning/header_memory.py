"""The memory of any model file, from the keys of its own header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from edgectl.models.gguf import Header
from edgectl.models.gguf_metadata import Array
from edgectl.models.tensor_plan import TensorSpec
from edgectl.planning.catalog import Geometry
from edgectl.planning.memory import KvType, MemoryEstimate, estimate_memory
from edgectl.planning.repack import repacked_bytes
from edged.api.errors import ModelUnusable

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["estimate_header_memory", "geometry_of_header"]

KNOWN_ARCHITECTURES: Final = ("gemma3", "llama", "qwen3", "qwen35", "qwen35moe")
GEMMA3_INTERVAL: Final = 6  # src/models/gemma3.cpp, where the header does not say
QWEN35_INTERVAL: Final = 4  # src/models/qwen35.cpp, likewise


def geometry_of_header(header: Header) -> Geometry:
    """The shape of the network that ``header`` describes, layers of a multi-token-prediction head left out.

    Raises ModelUnusable for an architecture whose memory is not known, and for a header without a key that
    the engine needs or with one that makes no sense.
    """
    arch = header.architecture
    if arch not in KNOWN_ARCHITECTURES:
        raise ModelUnusable(
            f"the memory of architecture {arch!r} is not known",
            hint=f"known: {', '.join(KNOWN_ARCHITECTURES)}",
        )
    keys = _Keys(header)
    heads, hidden = keys.count("attention.head_count"), keys.count("embedding_length")
    experts = keys.optional("expert_count")
    layers = keys.count("block_count") - keys.optional("nextn_predict_layers")
    if layers < 1 or hidden < heads:
        raise ModelUnusable(
            f"the header's {arch} keys contradict each other: {layers} layers, {hidden} wide, {heads} heads",
            hint="fetch the file again, or take another file of this model",
        )
    return Geometry(
        layers=layers,
        hidden=hidden,
        feed_forward=keys.count("expert_feed_forward_length" if experts else "feed_forward_length"),
        heads=heads,
        kv_heads=keys.optional("attention.head_count_kv") or heads,
        head_dim=keys.optional("attention.key_length") or hidden // heads,
        vocab=keys.vocabulary(),
        tied_embeddings=all(tensor.name != "output.weight" for tensor in header.tensors),
        merges=keys.length("tokenizer.ggml.merges"),
        experts=experts,
        experts_per_token=keys.count("expert_used_count") if experts else 0,
        shared_feed_forward=keys.optional("expert_shared_feed_forward_length"),
        **_recurrent(keys, layers, arch),
        **_sliding(keys, arch),
    )


def estimate_header_memory(
    header: Header,
    *,
    context_tokens: int,
    slots: int,
    ubatch_tokens: int,
    kv_type: KvType = "f16",
    repack_on: Collection[str] = (),
) -> MemoryEstimate:
    """Memory of the file with this header; ``repack_on`` are the CPU's flags where repacking is on.

    Raises ModelUnusable, see :func:`geometry_of_header`.
    """
    specs = tuple(TensorSpec(one.name, one.shape, one.type_name) for one in header.tensors)
    return estimate_memory(
        geometry_of_header(header),
        header.tensor_bytes,
        context_tokens=context_tokens,
        slots=slots,
        ubatch_tokens=ubatch_tokens,
        kv_type=kv_type,
        repacked_bytes=repacked_bytes(specs, repack_on),
    )


def _recurrent(keys: _Keys, layers: int, arch: str) -> dict[str, int]:
    if arch not in {"qwen35", "qwen35moe"}:
        return {}
    interval = keys.optional("full_attention_interval") or QWEN35_INTERVAL
    if layers % interval:
        raise ModelUnusable(
            f"{layers} layers with attention in every {interval}th make no whole network",
            hint="fetch the file again, or take another file of this model",
        )
    return {
        "full_attention_interval": interval,
        "linear_key_heads": keys.count("ssm.group_count"),
        "linear_value_heads": keys.count("ssm.time_step_rank"),
        "linear_head_dim": keys.count("ssm.state_size"),
        "linear_conv_kernel": keys.count("ssm.conv_kernel"),
    }


def _sliding(keys: _Keys, arch: str) -> dict[str, int]:
    window = keys.optional("attention.sliding_window") if arch == "gemma3" else 0
    if not window:
        return {}
    interval = keys.optional("attention.sliding_window_pattern") or GEMMA3_INTERVAL
    return {"sliding_window": window, "sliding_interval": interval}


class _Keys(Struct, frozen=True):
    """The numbers under one architecture's keys."""

    header: Header

    def optional(self, name: str) -> int:
        """0 when the key is absent. Raises ModelUnusable when it is no sensible number."""
        key = f"{self.header.architecture}.{name}"
        value = self.header.metadata.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise ModelUnusable(
                f"the header's {key} is not one number from 0 up",
                hint="memory can be foretold only for networks with equal layers",
            )
        return value

    def count(self, name: str) -> int:
        """At least 1. Raises ModelUnusable otherwise."""
        value = self.optional(name)
        if value < 1:
            raise ModelUnusable(
                f"the header has no {self.header.architecture}.{name}",
                hint="fetch the file again, or take another file of this model",
            )
        return value

    def length(self, key: str) -> int:
        """Items of an array; 0 when it is absent."""
        value = self.header.metadata.get(key)
        return value.length if isinstance(value, Array) else 0

    def vocabulary(self) -> int:
        """Tokens of the tokenizer, or rows of the embedding. Raises ModelUnusable without either."""
        shapes = [tensor.shape for tensor in self.header.tensors if tensor.name == "token_embd.weight"]
        rows = max((shape[1] for shape in shapes if len(shape) > 1), default=0)
        tokens = self.length("tokenizer.ggml.tokens")
        if not max(rows, tokens):
            raise ModelUnusable("the header names no vocabulary", hint="take another file of this model")
        return max(rows, tokens)
