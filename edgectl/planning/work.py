"""What one token makes a network do: which weights it reads, how much state and cache it goes through."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from edgectl.models.tensor_plan import follows_rules, tensor_plan
from edgectl.models.tensor_shapes import layer_of
from edged.api.attention import WIDE_HEAD

if TYPE_CHECKING:
    from edgectl.models.gguf import Header
    from edgectl.planning.catalog import ModelEntry, ModelFile

__all__ = ["ShapedTensor", "Work", "work_of_file", "work_of_header", "work_of_tensors"]

STATE_HEAD_DIM: Final = 128  # of a Gated DeltaNet layer; the same in every Qwen3.5
STATE_ELEMENT_BYTES: Final = 4  # recurrent state is always F32
# Of six layers of gemma3 five look back no further than the window (llama.cpp, src/models/gemma3.cpp).
_GEMMA3_PERIOD: Final = 6


class ShapedTensor(Protocol):
    """A tensor of a plan; ``shape`` is fastest-varying first."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ggml_type(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class Work(Struct, frozen=True, kw_only=True):
    """One step of one token.

    ``weight_bytes`` by tensor type are read for every token, ``head_bytes`` only for one whose logits are
    wanted: the output head and the last layer's feed-forward, which llama.cpp leaves out for the others.
    ``rows`` and ``head_rows`` are the outputs of those matrices, each a dot product.
    ``operations`` counts the tensors of the layers, which is about how often all threads wait for another.
    ``attention_elements`` of K and V, over all query heads and layers, are multiplied for each token of
    depth; ``window_elements`` likewise but for ``window_tokens`` at most. ``narrow_heads``: a head is too
    short for the vector loops of some processors.
    """

    weight_bytes: Mapping[str, float]
    head_bytes: Mapping[str, float]
    rows: float
    head_rows: float
    operations: int
    state_bytes: int = 0
    attention_elements: int = 0
    window_elements: int = 0
    window_tokens: int = 0
    narrow_heads: bool = False

    def attended(self, depth_tokens: float) -> float:
        """Elements of K and V that attention goes through at this depth."""
        windowed = self.window_elements * min(depth_tokens, self.window_tokens)
        return self.attention_elements * depth_tokens + windowed


def work_of_tensors(
    tensors: Iterable[ShapedTensor], *, head_dim: int, expert_share: float = 1.0, window_tokens: int = 0
) -> Work:
    """The work of a network of ``tensors`` with attention heads of ``head_dim`` elements.

    ``expert_share`` of a mixture of experts is used by one token; ``window_tokens`` above 0 says that only
    every sixth layer sees everything. Vectors (norms, biases) are operations without weight.
    """
    found = tuple(tensors)
    last = max((layer_of(tensor.name) for tensor in found), default=0)
    tied = all(tensor.name != "output.weight" for tensor in found)
    body: dict[str, float] = {}
    head: dict[str, float] = {}
    rows = head_rows = 0.0
    operations = state_elements = attended = windowed = 0
    for tensor in found:
        block, _, rest = tensor.name.partition(".")
        part = rest.partition(".")[2].partition(".")[0]
        layer = layer_of(tensor.name)
        operations += layer >= 0
        if len(tensor.shape) < 2:
            continue
        if part == "ssm_conv1d":
            kernel, channels = tensor.shape[:2]
            state_elements += (kernel - 1) * channels
            continue
        share = expert_share if part.endswith("_exps") else 1.0
        size_bytes, outputs = share * tensor.size_bytes, share * math.prod(tensor.shape[1:])
        if block == ("token_embd" if tied else "output") or (layer == last and part.startswith("ffn_")):
            head[tensor.ggml_type] = head.get(tensor.ggml_type, 0.0) + size_bytes
            head_rows += outputs
        elif layer >= 0:
            body[tensor.ggml_type] = body.get(tensor.ggml_type, 0.0) + size_bytes
            rows += outputs
        if part == "attn_output":
            local = window_tokens > 0 and (layer + 1) % _GEMMA3_PERIOD != 0
            windowed += tensor.shape[0] * local
            attended += tensor.shape[0] * (not local)
        elif part == "ssm_out":
            state_elements += tensor.shape[0] * STATE_HEAD_DIM
    return Work(
        weight_bytes=body,
        head_bytes=head,
        rows=rows,
        head_rows=head_rows,
        operations=operations,
        state_bytes=state_elements * STATE_ELEMENT_BYTES,
        attention_elements=2 * attended,
        window_elements=2 * windowed,
        window_tokens=window_tokens,
        narrow_heads=head_dim < WIDE_HEAD,
    )


def work_of_file(entry: ModelEntry, file: ModelFile) -> Work:
    """The work of a catalogued file."""
    geometry = entry.geometry
    published = None if follows_rules(geometry, file.quant) else file.bytes
    tensors = tensor_plan(entry.arch, geometry, file.quant, published_bytes=published)
    share = geometry.experts_per_token / geometry.experts if geometry.experts else 1.0
    return work_of_tensors(tensors, head_dim=geometry.head_dim, expert_share=share)


class _Typed(Struct, frozen=True, gc=False):
    """A tensor of a header, under the names of a plan."""

    name: str
    shape: tuple[int, ...]
    ggml_type: str
    size_bytes: int


def work_of_header(header: Header) -> Work:
    """The work of a real file."""
    experts = header.of_architecture("expert_count") or 0
    used = header.of_architecture("expert_used_count") or experts
    tensors = (_Typed(one.name, one.shape, one.type_name, one.size_bytes) for one in header.tensors)
    return work_of_tensors(
        tensors,
        head_dim=_head_dim(header),
        expert_share=used / experts if experts else 1.0,
        window_tokens=header.of_architecture("attention.sliding_window") or 0,
    )


def _head_dim(header: Header) -> int:
    """At least 1, whatever the header says."""
    heads = header.of_architecture("attention.head_count") or 1
    usual = (header.of_architecture("embedding_length") or 1) // max(heads, 1)
    return max(header.of_architecture("attention.key_length") or usual, 1)
