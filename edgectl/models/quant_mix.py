"""Which type each tensor of a quantized file has: llama.cpp's mixtures and one publisher's.

Source of the stock rules: ``src/llama-quant.cpp`` of llama.cpp as of spring 2026, when the catalogue's files
were made, with an importance matrix. They reproduce eight published 4B files to the byte. (Later versions
count fused ``attn_qkv`` tensors among ``attn_v``; no catalogued file is that new.)

Source of the publisher's changes: the byte sizes of the catalogue's files. One rule, below, explains all
sixty dense ones that are not "dynamic" (UD) to the byte, but for a constant of 32 to 256 bytes a model that
is metadata; a published load log of the 4B Q6_K (72 tensors of Q8_0) agrees.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from edgectl.errors import DataInvalid
from edgectl.models.tensor_shapes import layer_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgectl.models.tensor_shapes import Network, Shaped

__all__ = ["BASE_TYPES", "tensor_types"]

# What a mixture gives to tensors that no rule names.
BASE_TYPES: Final[Mapping[str, str]] = {
    "F32": "F32", "F16": "F16", "BF16": "BF16", "Q8_0": "Q8_0",
    "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
    "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K", "Q6_K": "Q6_K",
}  # fmt: skip

_UNQUANTIZED: Final = frozenset({"F32", "F16", "BF16"})
_NEVER_QUANTIZED: Final = ("_norm.weight", "ffn_gate_inp", "ssm_conv1d")  # small, and they matter

# What takes the place of a type whose blocks do not divide a tensor's rows.
_SMALLER_BLOCKS: Final = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
_K_BLOCK_ELEMENTS: Final = 256

# The publisher's rule for Qwen3.5: the output of a Gated DeltaNet layer gets the next larger type.
_LARGER: Final = {
    "Q3_K": "Q4_K", "Q4_0": "Q5_K", "Q4_1": "Q5_K", "Q4_K": "Q5_K", "IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K",
    "Q5_0": "Q6_K", "Q5_1": "Q6_K", "Q5_K": "Q6_K", "Q6_K": "Q8_0", "Q8_0": "Q8_0",
}  # fmt: skip


def tensor_types(
    shapes: Sequence[Shaped], network: Network, quant: str, *, publisher: bool = True
) -> tuple[str, ...]:
    """The type of each tensor of ``shapes``, which are in the order of the layers.

    ``publisher`` applies the changes of the catalogue's publisher; without them the mixture is llama.cpp's.
    Raises DataInvalid for a mixture that is not in :data:`BASE_TYPES`.
    """
    base = BASE_TYPES.get(quant)
    if base is None:
        raise DataInvalid(
            f"the mixture {quant!r} is not known", hint=f"known: {', '.join(sorted(BASE_TYPES))}"
        )
    mixture = _Mixture(shapes, network, quant, base)
    return tuple(
        _fitting(mixture.published(name) if publisher else mixture.stock(name), shape)
        if _is_quantized(name, shape)
        else "F32"
        for name, shape in shapes
    )


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and not _matters(name)


@lru_cache(maxsize=8192)  # the files of a catalogue share their names
def _matters(name: str) -> bool:
    return any(part in name for part in _NEVER_QUANTIZED)


def _fitting(kind: str, shape: tuple[int, ...]) -> str:
    return _SMALLER_BLOCKS.get(kind, kind) if shape[0] % _K_BLOCK_ELEMENTS else kind


class _Mixture:
    """The rules of one mixture; counts the tensors as it goes, because some rules depend on how many came."""

    def __init__(self, shapes: Sequence[Shaped], network: Network, quant: str, base: str) -> None:
        self._quant = quant
        self._base = base
        self._tied = network.tied_embeddings
        self._delta_net = network.full_attention_interval > 1
        self._shares_values = network.heads // network.kv_heads >= 4  # heads that read one value head
        self._layers = 1 + max((layer_of(name) for name, _ in shapes), default=0)
        self._values = sum(name.endswith(("attn_v.weight", "attn_qkv.weight")) for name, _ in shapes)
        self._values_seen = 0

    def published(self, name: str) -> str:
        """The publisher's changes, then the stock rules; what is changed is not counted there."""
        if self._base not in _UNQUANTIZED and self._delta_net:
            if "ssm_out" in name:
                return _LARGER[self._base]
            if "ssm_alpha" in name or "ssm_beta" in name:
                return "Q8_0"
            if name == "token_embd.weight" and self._quant == "IQ4_XS" and not self._tied:
                return "Q4_K"
        return self.stock(name)

    def stock(self, name: str) -> str:
        if self._base in _UNQUANTIZED:
            return self._base
        if name == "output.weight" or (self._tied and name == "token_embd.weight"):
            return "Q8_0" if self._base == "Q8_0" else "Q6_K"
        if "ffn_down" in name:
            return self._feed_forward_down(layer_of(name))
        return self._attention(name)

    def _attention(self, name: str) -> str:
        if name.endswith("attn_v.weight"):
            self._values_seen += 1
            return self._attention_values(self._values_seen - 1)
        if name.endswith("attn_qkv.weight"):
            return {"Q3_K_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(self._quant, self._base)
        if name.endswith("attn_output.weight"):
            return "Q4_K" if self._quant == "Q3_K_M" else self._base
        return self._base

    def _attention_values(self, index: int) -> str:
        match self._quant:
            case "Q3_K_M":
                return "Q5_K" if index < 2 else "Q4_K"
            case "Q4_K_M" | "Q5_K_M" if _deserves_more(index, self._values):
                return "Q6_K"
            case "Q4_K_S" if index < 4:
                return "Q5_K"
            case "IQ4_NL" | "IQ4_XS" if self._shares_values:
                return "Q5_K"
        return self._base

    def _feed_forward_down(self, layer: int) -> str:
        first_eighth = layer < self._layers // 8
        match self._quant:
            case "Q3_K_M":
                return "Q5_K" if layer < self._layers // 16 else "Q4_K"
            case "Q4_K_M" | "Q5_K_M" if _deserves_more(layer, self._layers):
                return "Q6_K"
            case "Q4_K_S" if first_eighth:
                return "Q5_K"
            case "Q4_0" if first_eighth:
                return "Q4_1"
            case "Q5_0" if first_eighth:
                return "Q5_1"
        return self._base


def _deserves_more(index: int, count: int) -> bool:
    """Whether a mixture spends more bits here: the first and last eighth, and every third between them."""
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2
