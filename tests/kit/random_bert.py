"""A small encoder with seeded random weights, as most embedding models are: no KV cache, no output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.models.gguf_metadata import Array
from edgectl.models.gguf_types import STRING
from edgectl.models.gguf_writer import INT32
from edgectl.models.replica_plan import ReplicaPlan
from edgectl.models.tensor_plan import TensorSpec
from tests.kit.random_model import POOLING, weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgectl.models.gguf_metadata import Value

HIDDEN, INNER, LAYERS, LONGEST = 128, 256, 2, 96  # the longest text in tokens, as learned positions allow
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
# WordPiece in llama.cpp's writing: a word begins with U+2581, what goes on in one does not.
TOKENS = (*SPECIALS, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS)
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def random_bert(folder: Path, pooling: str = "mean", *, seed: int = 1) -> Path:
    """A model of 128 numbers a text; it reads letters, and texts of up to 96 tokens."""
    plan = ReplicaPlan(metadata=_metadata(pooling), tensors=tuple(_tensors()))
    path = folder / f"random-bert-{pooling}-{seed}.gguf"
    path.write_bytes(plan.header() + weights(plan, seed))
    return path


def _metadata(pooling: str) -> dict[str, Value]:
    kinds = [CONTROL, UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (len(TOKENS) - len(SPECIALS))
    return {
        "general.architecture": "bert",
        "general.name": "random bert",
        "bert.block_count": LAYERS,
        "bert.context_length": LONGEST,
        "bert.embedding_length": HIDDEN,
        "bert.feed_forward_length": INNER,
        "bert.attention.head_count": 4,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": POOLING[pooling],
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": Array(STRING, len(TOKENS), TOKENS),
        "tokenizer.ggml.token_type": Array(INT32, len(kinds), tuple(kinds)),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3,
    }


def _tensors() -> Iterator[TensorSpec]:
    yield TensorSpec("token_embd.weight", (HIDDEN, len(TOKENS)), "F32")
    yield TensorSpec("token_types.weight", (HIDDEN, 2), "F32")
    yield TensorSpec("position_embd.weight", (HIDDEN, LONGEST), "F32")
    yield from _pair("token_embd_norm", HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield from _pair(f"{block}.{name}", HIDDEN, HIDDEN)
        yield from _pair(f"{block}.attn_output_norm", HIDDEN)
        yield from _pair(f"{block}.ffn_up", INNER, HIDDEN)
        yield from _pair(f"{block}.ffn_down", HIDDEN, INNER)
        yield from _pair(f"{block}.layer_output_norm", HIDDEN)


def _pair(name: str, outputs: int, inputs: int = 0) -> Iterator[TensorSpec]:
    """Weights and bias; of a normalisation, which has no inputs, one weight for each number."""
    yield TensorSpec(f"{name}.weight", (inputs, outputs) if inputs else (outputs,), "F32")
    yield TensorSpec(f"{name}.bias", (outputs,), "F32")
