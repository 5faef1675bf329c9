"""Attention in one pass or by a matrix of scores: which is chosen where."""

from __future__ import annotations

import pytest

from edged.api.attention import WIDE_HEAD, flash_attention, scores_bytes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("model", "head_dim", "heads", "cells", "ubatch_tokens", "quantized", "one_pass"),
    [
        ("SmolLM2-135M", 64, 9, 4096, 64, False, False),
        ("its cache in q8_0, which only one pass can read", 64, 9, 4096, 64, True, True),
        ("large steps: 9 x 4096 x 512 scores are 72 MiB", 64, 9, 4096, 512, False, True),
        ("a long context, as much", 64, 9, 32_768, 64, False, True),
        ("40 MiB are few enough", 64, 10, 16_384, 64, False, False),
        ("a cell more is too many", 64, 10, 16_385, 64, False, True),
        ("the widest of narrow heads", WIDE_HEAD - 1, 8, 512, 64, False, False),
        ("wide heads", WIDE_HEAD, 8, 512, 64, False, True),
        ("Qwen3.5-0.8B", 256, 8, 4096, 64, False, True),
        ("gemma-3-270m", 256, 4, 512, 64, True, True),
    ],
)
def test_narrow_heads_have_scores_while_those_are_few(
    model, head_dim, heads, cells, ubatch_tokens, quantized, one_pass
):
    chosen = flash_attention(
        head_dim=head_dim, heads=heads, cells=cells, ubatch_tokens=ubatch_tokens, quantized=quantized
    )
    assert chosen == one_pass, model


def test_a_score_is_a_number_of_four_bytes_for_each_head_token_and_cell():
    assert scores_bytes(10, 16_384, 64) == 40 * MIB
