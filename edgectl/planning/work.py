"""What one token makes a network do: which weights it reads, how much state and cache it goes through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from edgectl.models.tensor_plan import follows_rules, tensor_plan

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

    ``weight_bytes`` by tensor type are read in the layers, ``head_bytes`` for the logits of a token that is
    sampled from. ``attention_elements`` of K and V, over all query heads and layers, are multiplied for each
    token of depth; ``window_elements`` likewise but for ``window_tokens`` at most.
    """

    weight_bytes: Mapping[str, float]
    head_bytes: Mapping[str, float]
    layers: int
    state_bytes: int = 0
    attention_elements: int = 0
    window_elements: int = 0
    window_tokens: int = 0

    def attended(self, depth_tokens: float) -> float:
        """Elements of K and V that attention goes through at this depth."""
        windowed = self.window_elements * min(depth_tokens, self.window_tokens)
        return self.attention_elements * depth_tokens + windowed


def work_of_tensors(
    tensors: Iterable[ShapedTensor], *, expert_share: float = 1.0, window_tokens: int = 0
) -> Work:
    """The work of a network of ``tensors``.

    ``expert_share`` of a mixture of experts is used by one token; ``window_tokens`` above 0 says that only
    every sixth layer sees everything. Vectors (norms, biases) are small and counted with their layer.
    """
    body: dict[str, float] = {}
    head: Counter[str] = Counter()
    embedding: Counter[str] = Counter()
    layers: set[int] = set()
    state_elements = attention = windowed = 0
    for tensor in tensors:
        if len(tensor.shape) < 2:
            continue
        block, _, rest = tensor.name.partition(".")
        if block != "blk":
            target = {"token_embd": embedding, "output": head}.get(block)
            if target is not None:
                target[tensor.ggml_type] += tensor.size_bytes
            continue
        number, _, rest = rest.partition(".")
        part = rest.partition(".")[0]
        layer = int(number) if number.isdecimal() else 0
        layers.add(layer)
        if part == "ssm_conv1d":
            kernel, channels = tensor.shape[:2]
            state_elements += (kernel - 1) * channels
            continue
        share = expert_share if part.endswith("_exps") else 1.0
        body[tensor.ggml_type] = body.get(tensor.ggml_type, 0.0) + share * tensor.size_bytes
        if part == "attn_output":
            local = window_tokens > 0 and (layer + 1) % _GEMMA3_PERIOD != 0
            windowed += 2 * tensor.shape[0] * local
            attention += 2 * tensor.shape[0] * (not local)
        elif part == "ssm_out":
            state_elements += tensor.shape[0] * STATE_HEAD_DIM
    return Work(
        weight_bytes=body,
        head_bytes=dict(head or embedding),  # tied: the embedding is the head
        layers=len(layers),
        state_bytes=state_elements * STATE_ELEMENT_BYTES,
        attention_elements=attention,
        window_elements=windowed,
        window_tokens=window_tokens,
    )


def work_of_file(entry: ModelEntry, file: ModelFile) -> Work:
    """The work of a catalogued file."""
    geometry = entry.geometry
    published = None if follows_rules(geometry, file.quant) else file.bytes
    tensors = tensor_plan(entry.arch, geometry, file.quant, published_bytes=published)
    share = geometry.experts_per_token / geometry.experts if geometry.experts else 1.0
    return work_of_tensors(tensors, expert_share=share)


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
        expert_share=used / experts if experts else 1.0,
        window_tokens=header.of_architecture("attention.sliding_window") or 0,
    )
