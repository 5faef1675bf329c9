"""The engine's compute buffer and graphs: what one step of a network works in.

llama.cpp allocates the buffer once, for the largest step (``sched_reserve`` in llama-context.cpp), and
places tensors in it so that those alive at the same time do not overlap. The sums below name the tensors
alive at the widest moments; they were compared with the sizes that it logs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edged.api.attention import flash_attention, scores_bytes

if TYPE_CHECKING:
    from edgectl.planning.catalog import Geometry

__all__ = ["DRAFT_TOKENS", "attention_scores_bytes", "compute_buffer_bytes", "graph_bytes", "logit_rows"]

DRAFT_TOKENS: Final = 7  # on trial in a step, as edged.worker.backends.llama_drafts has it

_F32: Final = 4
_F16: Final = 2
# Rows of the hidden size alive beside a layer's own tensors: residual, norm, output, and, where norms follow
# the blocks too (gemma3), two more.
_HIDDEN_ROWS: Final = 5
# Tensors of different sizes leave gaps between them: 4 % were seen at 512 tokens a step, less at fewer.
_GAPS_PERCENT: Final = 105
# One node of the graphs that llama.cpp keeps for reuse, its hash table and its schedule. Measured: 696 to
# 702 B more of anonymous memory for each node allowed for, from 2,176 (SmolLM2) to 13,632 (Qwen3.5 4B).
_NODE_BYTES: Final = 704
_LEAST_NODES: Final = 1024


def logit_rows(geometry: Geometry, slots: int, ubatch_tokens: int, *, scores: bool) -> int:
    """Rows of logits that a step may give: one a slot, and one for each token on trial.

    What forgets, in recurrent layers or behind a sliding window, takes no tokens on trial by itself, and
    attention by ``scores`` does not either.
    """
    none = scores or geometry.linear_layers or geometry.sliding_layers
    return slots + (0 if none else min(DRAFT_TOKENS, ubatch_tokens - 1))


def compute_buffer_bytes(
    geometry: Geometry, *, cells: int, slots: int, ubatch_tokens: int, quantized: bool = False
) -> int:
    """The buffer for steps of ``ubatch_tokens`` on ``slots`` sequences of ``cells`` cells each.

    ``quantized``: the cache is.
    """
    scores = attention_scores_bytes(geometry, cells=cells, ubatch_tokens=ubatch_tokens, quantized=quantized)
    mask_bytes = cells * (_F32 if scores else _F16)  # which cells a token may see
    # DeltaNet works on a copy of each sequence's state and makes a new one.
    states = 2 * (geometry.convolution_state + geometry.matrix_state) * _F32
    rows = logit_rows(geometry, slots, ubatch_tokens, scores=scores > 0)
    logits = rows * geometry.vocab * _F32
    widest = max(
        ubatch_tokens * _feed_forward(geometry) * _F32,
        ubatch_tokens * _attention(geometry) * _F32 + scores,
        ubatch_tokens * _delta_net(geometry) * _F32 + slots * states,
        logits + rows * geometry.hidden * _F32,
    )
    return (ubatch_tokens * mask_bytes + widest) * _GAPS_PERCENT // 100


def attention_scores_bytes(
    geometry: Geometry, *, cells: int, ubatch_tokens: int, quantized: bool = False
) -> int:
    """The scores of one step in one layer, where attention is not computed in one pass."""
    flash = flash_attention(
        head_dim=geometry.head_dim,
        heads=geometry.heads,
        cells=cells,
        ubatch_tokens=ubatch_tokens,
        quantized=quantized,
    )
    return 0 if flash else scores_bytes(geometry.heads, cells, ubatch_tokens)


def _feed_forward(geometry: Geometry) -> int:
    """Floats of a token: gate, up, their product; of a mixture for each expert it goes to, and the shared."""
    if not geometry.experts:
        return _HIDDEN_ROWS * geometry.hidden + 3 * geometry.feed_forward
    chosen = geometry.experts_per_token * (3 * geometry.feed_forward + geometry.hidden)
    return _HIDDEN_ROWS * geometry.hidden + chosen + 3 * geometry.shared_feed_forward + 2 * geometry.experts


def _attention(geometry: Geometry) -> int:
    """Floats of a token: queries (with their gate, normed, turned), keys, values."""
    queries = geometry.heads * geometry.head_dim
    cached = geometry.kv_heads * geometry.head_dim
    return 3 * geometry.hidden + 4 * queries + 4 * cached


def _delta_net(geometry: Geometry) -> int:
    """Floats of a token: input and output of the convolution, then queries, keys and values of the state."""
    if not geometry.linear_layers:
        return 0
    return 3 * geometry.hidden + 2 * geometry.convolution_channels + 2 * geometry.linear_inner


def graph_bytes(geometry: Geometry, ubatch_tokens: int) -> int:
    """Graphs of a step (``graph_max_nodes`` in llama-context.cpp): by tensors, or by tokens for DeltaNet."""
    if geometry.linear_layers:
        nodes = max(40 * ubatch_tokens, 32 * _tensors(geometry))
    else:
        nodes = max(_LEAST_NODES, 8 * _tensors(geometry))
    return nodes * _NODE_BYTES


def _tensors(geometry: Geometry) -> int:
    """Weight tensors; 9 to 13 a layer with attention (13 in gemma3), 14 with DeltaNet, 5 more for experts."""
    more = 5 if geometry.experts else 0
    attention = (11 if geometry.linear_layers else 13) + more
    return (
        3 + (geometry.kv_layers + geometry.sliding_layers) * attention + geometry.linear_layers * (14 + more)
    )
