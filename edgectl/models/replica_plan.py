"""What a weightless replica of a model consists of: its metadata and its tensors, without their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from edgectl.errors import DataInvalid
from edgectl.models.gguf import DEFAULT_ALIGNMENT_BYTES
from edgectl.models.gguf_metadata import Array, Value
from edgectl.models.gguf_types import FILE_TYPES
from edgectl.models.gguf_writer import INT32, encode_header
from edgectl.models.synthetic_tokenizer import tokenizer_metadata
from edgectl.models.tensor_plan import TensorSpec, follows_rules, tensor_plan, weights_bytes
from edgectl.models.tensor_shapes import layer_of

if TYPE_CHECKING:
    from edgectl.models.gguf import Header
    from edgectl.models.tensor_shapes import Network

__all__ = ["TOKENIZER_ARRAYS", "ReplicaPlan", "plan_replica", "replica_of_header"]

# Arrays that a header must be read with (``read_header(..., keep=TOKENIZER_ARRAYS)``) to be copied.
TOKENIZER_ARRAYS: Final = frozenset(
    f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges", "precompiled_charsmap")
)
_PRE_TOKENIZERS: Final = {"qwen35": "qwen35", "qwen35moe": "qwen35", "qwen3": "qwen2", "llama": "smollm"}


class ReplicaPlan(Struct, frozen=True, kw_only=True):
    """A model file but for its weights; ``exact`` says that each tensor has the type it really has."""

    metadata: Mapping[str, Value]
    tensors: tuple[TensorSpec, ...]
    alignment_bytes: int = DEFAULT_ALIGNMENT_BYTES
    exact: bool = True

    def header(self) -> bytes:
        """The bytes before the weights."""
        return encode_header(self.metadata, self.tensors, self.alignment_bytes)

    @property
    def weights_bytes(self) -> int:
        """Size of the weights, padding included."""
        return weights_bytes(self.tensors, self.alignment_bytes)


def plan_replica(
    arch: str,
    network: Network,
    quant: str,
    *,
    context_tokens: int,
    layers: int | None = None,
    file_bytes: int | None = None,
) -> ReplicaPlan:
    """The replica of a catalogued file, or of one with fewer ``layers``.

    ``file_bytes`` is the published size of the whole file; a mixture whose rules are not public is made to
    meet it. Raises DataInvalid when architecture, mixture or depth is not known.
    """
    depth = network.layers if layers is None else layers
    metadata = {
        **_general(arch, quant),
        **_architecture(arch, network, depth, context_tokens),
        **tokenizer_metadata(network.vocab, _PRE_TOKENIZERS.get(arch, "gpt-2")),
    }
    exact = follows_rules(network, quant)
    published = None
    if file_bytes is not None and not exact:
        published = file_bytes - len(encode_header(metadata, tensor_plan(arch, network, "Q8_0")))
    tensors = tensor_plan(arch, network, quant, layers=layers, published_bytes=published)
    return ReplicaPlan(metadata=metadata, tensors=tensors, exact=exact)


def replica_of_header(header: Header, *, layers: int | None = None) -> ReplicaPlan:
    """The replica of a file whose header was read with :data:`TOKENIZER_ARRAYS` kept.

    Raises DataInvalid when an array was not kept, or the file has fewer than ``layers``.
    """
    missing = [key for key in TOKENIZER_ARRAYS if _not_kept(header.metadata.get(key))]
    if missing:
        raise DataInvalid(
            f"the header was read without {', '.join(sorted(missing))}", hint="keep the tokenizer's arrays"
        )
    metadata = {key: value for key, value in header.metadata.items() if not _not_kept(value)}
    tensors = tuple(TensorSpec(tensor.name, tensor.shape, tensor.type_name) for tensor in header.tensors)
    if layers is not None and layers != header.block_count:
        metadata = _shallower(header, metadata, layers)
        tensors = tuple(spec for spec in tensors if layer_of(spec.name) < layers)
    return ReplicaPlan(metadata=metadata, tensors=tensors, alignment_bytes=header.alignment_bytes)


def _shallower(header: Header, metadata: Mapping[str, Value], layers: int) -> dict[str, Value]:
    depth = header.block_count or 0
    if not 1 <= layers <= depth:
        raise DataInvalid(
            f"the model has {depth} layers, not {layers}", hint="name a number of layers it has"
        )
    prefix = f"{header.architecture}."
    cut = {
        key: _first(value, layers) if key.startswith(prefix) and _length(value) == depth else value
        for key, value in metadata.items()
    }
    return {**cut, f"{prefix}block_count": layers}


def _first(value: Value, count: int) -> Value:
    if not isinstance(value, Array) or value.items is None:
        return value
    return msgspec.structs.replace(value, length=count, items=value.items[:count])


def _length(value: Value) -> int | None:
    return value.length if isinstance(value, Array) else None


def _not_kept(value: Value | None) -> bool:
    return isinstance(value, Array) and value.items is None


def _general(arch: str, quant: str) -> dict[str, Value]:
    """``general.file_type`` is left out for mixtures that llama.cpp has no number for."""
    number = next((number for number, name in FILE_TYPES.items() if name == quant), None)
    known: dict[str, Value] = {} if number is None else {"general.file_type": number}
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": "weightless replica",
        "general.quantization_version": 2,
        **known,
    }


def _architecture(arch: str, network: Network, layers: int, context_tokens: int) -> dict[str, Value]:
    """The keys llama.cpp wants; those that change neither memory nor work have the usual values."""
    keys: dict[str, Value] = {
        "block_count": layers,
        "context_length": context_tokens,
        "embedding_length": network.hidden,
        "feed_forward_length": network.feed_forward,
        "attention.head_count": network.heads,
        "attention.head_count_kv": network.kv_heads,
        "attention.key_length": network.head_dim,
        "attention.value_length": network.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10_000_000.0,
        "rope.dimension_count": network.head_dim,
    }
    if network.full_attention_interval > 1:
        keys |= _delta_net(network)
    if network.experts:
        keys |= {
            "expert_count": network.experts,
            "expert_used_count": network.experts_per_token,
            "expert_feed_forward_length": network.feed_forward,
            "expert_shared_feed_forward_length": network.shared_feed_forward,
        }
    if arch == "gemma3":
        keys["attention.sliding_window"] = 512
    return {f"{arch}.{name}": value for name, value in keys.items()}


def _delta_net(network: Network) -> dict[str, Value]:
    rotated = network.head_dim // 4
    return {
        "rope.dimension_count": rotated,
        "rope.dimension_sections": Array(INT32, 4, (11, 11, 10, 0)),
        "full_attention_interval": network.full_attention_interval,
        "ssm.conv_kernel": network.linear_conv_kernel,
        "ssm.inner_size": network.linear_value_heads * network.linear_head_dim,
        "ssm.state_size": network.linear_head_dim,
        "ssm.time_step_rank": network.linear_value_heads,
        "ssm.group_count": network.linear_key_heads,
    }
