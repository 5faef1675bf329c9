"""Every tensor of a model file, named, shaped and typed, before anybody has the file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from edgectl.models.gguf import DEFAULT_ALIGNMENT_BYTES
from edgectl.models.gguf_types import TENSOR_TYPES
from edgectl.models.quant_mix import BASE_TYPES, tensor_types
from edgectl.models.tensor_shapes import tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgectl.models.tensor_shapes import Network, Shaped

__all__ = ["TensorSpec", "follows_rules", "tensor_plan", "weights_bytes"]

_TYPES: Final[Mapping[str, tuple[int, int, int]]] = {
    name: (number, elements, size_bytes) for number, (name, elements, size_bytes) in TENSOR_TYPES.items()
}

# Mixtures whose rules are the publisher's secret, and the one they enlarge.
_ENLARGED: Final = {
    "Q3_K_M": "Q3_K_S", "IQ4_XS": "Q3_K_S", "Q4_K_M": "Q4_K_S", "Q5_K_M": "Q5_K_S",
    "UD-IQ4_XS": "Q3_K_S", "UD-Q3_K_XL": "Q3_K_S", "UD-Q4_K_XL": "Q4_K_S", "UD-Q5_K_XL": "Q5_K_S",
    "UD-Q6_K_XL": "Q6_K",
}  # fmt: skip
# Where such a file spends its bits first: the tensors of Qwen3.5 whose rounding costs most, as published.
_SENSITIVE: Final = (
    "ssm_out", "attn_qkv", "attn_gate", "attn_v", "attn_output", "attn_k", "attn_q", "shexp", "ffn_down",
    "token_embd", "ffn_gate", "ffn_up",
)  # fmt: skip
_NEXT_LARGER: Final = {"Q3_K": "Q4_K", "IQ4_XS": "Q4_K", "Q4_K": "Q5_K", "Q5_K": "Q6_K", "Q6_K": "Q8_0"}
_PURE: Final = frozenset({"F32", "F16", "BF16", "Q8_0"})


class TensorSpec(Struct, frozen=True, gc=False):
    """One tensor; ``shape`` is fastest-varying first, ``ggml_type`` a name such as "Q4_K"."""

    name: str
    shape: tuple[int, ...]
    ggml_type: str

    @property
    def type_number(self) -> int:
        return _TYPES[self.ggml_type][0]

    @property
    def size_bytes(self) -> int:
        """Without the padding that follows it in the file."""
        _, block_elements, block_bytes = _TYPES[self.ggml_type]
        return math.prod(self.shape) // block_elements * block_bytes


def weights_bytes(specs: Iterable[TensorSpec], alignment_bytes: int = DEFAULT_ALIGNMENT_BYTES) -> int:
    """What the tensors take in a file, with padding."""
    return sum(-(-spec.size_bytes // alignment_bytes) * alignment_bytes for spec in specs)


def follows_rules(network: Network, quant: str) -> bool:
    """Whether the types of every tensor are known; else they are chosen to meet the file's size."""
    return quant in BASE_TYPES and (network.experts == 0 or quant in _PURE)


def tensor_plan(
    arch: str, network: Network, quant: str, *, layers: int | None = None, published_bytes: int | None = None
) -> tuple[TensorSpec, ...]:
    """The tensors of the file ``quant`` of a network, or of one with fewer ``layers``.

    ``published_bytes``, the weights of the whole file, matters only where :func:`follows_rules` is False:
    there the tensors that suffer most from rounding are enlarged until the size is met. Without it they are
    those of the mixture that such files enlarge.

    Raises DataInvalid for an unknown architecture, mixture or depth.
    """
    shapes = tensor_shapes(arch, network, layers)
    if follows_rules(network, quant):
        return _typed(shapes, network, quant)
    base = _ENLARGED.get(quant, quant)
    specs = _typed(shapes, network, base)
    if published_bytes is None:
        return specs
    whole = specs if layers is None else _typed(tensor_shapes(arch, network), network, base)
    return _enlarged(specs, weights_bytes(specs) * published_bytes // weights_bytes(whole))


def _typed(shapes: tuple[Shaped, ...], network: Network, quant: str) -> tuple[TensorSpec, ...]:
    types = tensor_types(shapes, network, quant)
    return tuple(TensorSpec(name, shape, kind) for (name, shape), kind in zip(shapes, types, strict=True))


def _enlarged(specs: tuple[TensorSpec, ...], target_bytes: int) -> tuple[TensorSpec, ...]:
    """Give tensors the next larger type, one step a round, as long as all stay within ``target_bytes``."""
    chosen = list(specs)
    spare_bytes = target_bytes - weights_bytes(specs)
    order = sorted(range(len(specs)), key=lambda index: _rank(specs[index].name))
    changed = True
    while changed:
        changed = False
        for index in order:
            larger = _next_larger(chosen[index])
            if larger is None or (cost := larger.size_bytes - chosen[index].size_bytes) > spare_bytes:
                continue
            chosen[index], spare_bytes, changed = larger, spare_bytes - cost, True
    return tuple(chosen)


def _next_larger(spec: TensorSpec) -> TensorSpec | None:
    kind = _NEXT_LARGER.get(spec.ggml_type)
    return None if kind is None else msgspec.structs.replace(spec, ggml_type=kind)


def _rank(name: str) -> int:
    return next((rank for rank, part in enumerate(_SENSITIVE) if part in name), len(_SENSITIVE))
