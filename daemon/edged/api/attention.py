"""Whether attention is computed in one pass or by a matrix of scores; planner and worker agree here."""

from __future__ import annotations

from typing import Final

__all__ = ["WIDE_HEAD", "flash_attention", "scores_bytes"]

WIDE_HEAD: Final = 128  # elements; what one pass does for each head and token is too much for fewer
MOST_SCORES_BYTES: Final = 40 << 20
_F32: Final = 4


def flash_attention(*, head_dim: int, heads: int, cells: int, ubatch_tokens: int, quantized: bool) -> bool:
    """Whether one pass is right for a cache of ``cells`` a sequence.

    It takes no memory for scores, and a ``quantized`` cache knows no other way; but with narrow heads a
    matrix of scores is faster. Measured with SmolLM2 (heads of 64) at 550 tokens on two cores with AVX-512:
    62 against 91 ms for eight decoding sequences, 0.21 against 0.52 s for two questions of 25 tokens
    (`python -m tests.bench.steps`). With heads of 256 neither is ahead: Qwen3.5-0.8B's shapes are equal;
    gemma-3-270m takes 52 against 63 ms for eight sequences, 132 against 114 for 64 tokens of a prompt.
    """
    narrow = head_dim < WIDE_HEAD and scores_bytes(heads, cells, ubatch_tokens) <= MOST_SCORES_BYTES
    return quantized or not narrow


def scores_bytes(heads: int, cells: int, ubatch_tokens: int) -> int:
    """The matrix of scores of one step in one layer."""
    return heads * cells * ubatch_tokens * _F32
