"""The weight tensors of a network: names and shapes, as llama.cpp expects them for each architecture.

Source: ``src/models/{qwen35,qwen35moe,qwen3,llama,gemma3}.cpp`` and ``src/llama-arch.cpp`` of llama.cpp as
llama-cpp-python 0.3.36 carries it. Shapes are fastest-varying first: ``(inputs, outputs)`` of a matrix.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from edgectl.errors import DataInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["ARCHITECTURES", "Network", "Shaped", "layer_of", "tensor_shapes"]

Shaped: TypeAlias = tuple[str, tuple[int, ...]]  # a name and its shape


@lru_cache(maxsize=8192)  # the files of a catalogue share their names
def layer_of(name: str) -> int:
    """The number in "blk.7.attn_q.weight"; -1 for a tensor that is in no layer."""
    block, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if block == "blk" and number.isdecimal() else -1


class Network(Protocol):
    """What decides the shapes; counts, no units. The catalogue's ``Geometry`` is one."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def feed_forward(self) -> int:
        """Of one expert, where there are experts."""

    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def tied_embeddings(self) -> bool: ...
    @property
    def full_attention_interval(self) -> int: ...
    @property
    def linear_key_heads(self) -> int: ...
    @property
    def linear_value_heads(self) -> int: ...
    @property
    def linear_head_dim(self) -> int: ...
    @property
    def linear_conv_kernel(self) -> int: ...
    @property
    def experts(self) -> int:
        """0 for a dense network."""

    @property
    def experts_per_token(self) -> int: ...
    @property
    def shared_feed_forward(self) -> int: ...


def tensor_shapes(arch: str, network: Network, layers: int | None = None) -> tuple[Shaped, ...]:
    """All tensors in the order of the layers; ``layers`` builds a shallower network.

    Raises DataInvalid for an architecture that is not in the table, or a depth that it cannot have.
    """
    block = ARCHITECTURES.get(arch)
    if block is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise DataInvalid(f"the tensors of architecture {arch!r} are not known", hint=f"known: {known}")
    depth = network.layers if layers is None else layers
    if not 1 <= depth <= network.layers:
        raise DataInvalid(
            f"the network has {network.layers} layers, not {depth}", hint="name a number of layers it has"
        )
    if depth % network.full_attention_interval:
        raise DataInvalid(
            f"the network repeats groups of {network.full_attention_interval} layers; {depth} is no multiple",
            hint="name a whole number of groups",
        )
    tensors: list[Shaped] = [("token_embd.weight", (network.hidden, network.vocab))]
    tensors += [
        (f"blk.{layer}.{name}", shape) for layer in range(depth) for name, shape in block(network, layer)
    ]
    tensors.append(("output_norm.weight", (network.hidden,)))
    if not network.tied_embeddings:
        tensors.append(("output.weight", (network.hidden, network.vocab)))
    return tuple(tensors)


def _attention(network: Network, *, gated: bool = False, normed: bool = True) -> Iterator[Shaped]:
    """Attention with a KV cache; a gated one has a query projection twice as wide."""
    inner = network.heads * network.head_dim
    cached = network.kv_heads * network.head_dim
    yield "attn_q.weight", (network.hidden, inner * (2 if gated else 1))
    yield "attn_k.weight", (network.hidden, cached)
    yield "attn_v.weight", (network.hidden, cached)
    yield "attn_output.weight", (inner, network.hidden)
    if normed:
        yield "attn_q_norm.weight", (network.head_dim,)
        yield "attn_k_norm.weight", (network.head_dim,)


def _delta_net(network: Network) -> Iterator[Shaped]:
    """Gated DeltaNet: attention with a recurrent state in place of a KV cache."""
    keys = network.linear_key_heads * network.linear_head_dim
    values = network.linear_value_heads * network.linear_head_dim
    yield "attn_qkv.weight", (network.hidden, 2 * keys + values)
    yield "attn_gate.weight", (network.hidden, values)
    yield "ssm_conv1d.weight", (network.linear_conv_kernel, 2 * keys + values)
    yield "ssm_dt.bias", (network.linear_value_heads,)
    yield "ssm_a", (network.linear_value_heads,)
    yield "ssm_beta.weight", (network.hidden, network.linear_value_heads)
    yield "ssm_alpha.weight", (network.hidden, network.linear_value_heads)
    yield "ssm_norm.weight", (network.linear_head_dim,)
    yield "ssm_out.weight", (values, network.hidden)


def _feed_forward(network: Network) -> Iterator[Shaped]:
    yield "ffn_gate.weight", (network.hidden, network.feed_forward)
    yield "ffn_up.weight", (network.hidden, network.feed_forward)
    yield "ffn_down.weight", (network.feed_forward, network.hidden)


def _experts(network: Network) -> Iterator[Shaped]:
    """A mixture of experts, with one that every token uses."""
    hidden, inner, shared = network.hidden, network.feed_forward, network.shared_feed_forward
    yield "ffn_gate_inp.weight", (hidden, network.experts)
    yield "ffn_gate_exps.weight", (hidden, inner, network.experts)
    yield "ffn_up_exps.weight", (hidden, inner, network.experts)
    yield "ffn_down_exps.weight", (inner, hidden, network.experts)
    yield "ffn_gate_inp_shexp.weight", (hidden,)
    yield "ffn_gate_shexp.weight", (hidden, shared)
    yield "ffn_up_shexp.weight", (hidden, shared)
    yield "ffn_down_shexp.weight", (shared, hidden)


def _hybrid_attention(network: Network, layer: int) -> Iterator[Shaped]:
    yield "attn_norm.weight", (network.hidden,)
    yield "post_attention_norm.weight", (network.hidden,)
    if (layer + 1) % network.full_attention_interval == 0:
        yield from _attention(network, gated=True)
    else:
        yield from _delta_net(network)


def _qwen35(network: Network, layer: int) -> Iterator[Shaped]:
    yield from _hybrid_attention(network, layer)
    yield from _feed_forward(network)


def _qwen35moe(network: Network, layer: int) -> Iterator[Shaped]:
    yield from _hybrid_attention(network, layer)
    yield from _experts(network)


def _llama(network: Network, _layer: int) -> Iterator[Shaped]:
    yield "attn_norm.weight", (network.hidden,)
    yield from _attention(network, normed=False)
    yield "ffn_norm.weight", (network.hidden,)
    yield from _feed_forward(network)


def _qwen3(network: Network, _layer: int) -> Iterator[Shaped]:
    yield "attn_norm.weight", (network.hidden,)
    yield from _attention(network)
    yield "ffn_norm.weight", (network.hidden,)
    yield from _feed_forward(network)


def _gemma3(network: Network, layer: int) -> Iterator[Shaped]:
    yield from _qwen3(network, layer)
    yield "post_attention_norm.weight", (network.hidden,)
    yield "post_ffw_norm.weight", (network.hidden,)


ARCHITECTURES: Final[Mapping[str, Callable[[Network, int], Iterator[Shaped]]]] = {
    "gemma3": _gemma3,
    "llama": _llama,
    "qwen3": _qwen3,
    "qwen35": _qwen35,
    "qwen35moe": _qwen35moe,
}
