"""How much memory a model takes: weights, KV cache, recurrent state, compute buffers, process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from edgectl.planning.catalog import Geometry


__all__ = [
    "KvType", "MemoryEstimate", "estimate_memory", "kv_bytes_per_token", "reserved_logits_bytes",
    "state_bytes_per_sequence", "unit_memory_max_bytes", "worker_budget_bytes",
]  # fmt: skip

MIB = 1 << 20
KvType = Literal["f16", "q8_0", "q4_0"]

# Bytes of a block and elements in it, as ggml defines the types.
_KV_BLOCK: dict[KvType, tuple[int, int]] = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}

PARKED_SEQUENCES = 2  # recurrent states kept beside the slots: the shared prefix and one checkpoint
SUPERVISOR_BYTES = 64 * MIB  # 45 MiB promised without a model, and room for queued requests

# Measured with llama.cpp of October 2026 on SmolLM2 135M (RssAnon after each step): a Python process that
# has loaded the engine and its templates, 28 MiB; its tokenizer, 17 MiB for 49,152 tokens and their merges;
# the context, 1 MiB.
# Qwen3.5 0.8B, 4B and 9B were seen with 80 to 105 MiB beyond KV cache and state, which 300 B a token meets.
_PROCESS_BYTES = 32 * MIB
_TOKENIZER_BYTES_PER_TOKEN = 300
_COMPUTE_FIXED_BYTES = 3 * MIB  # work buffers of the threads, measured
_F32 = 4


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """Resident bytes at full context on every slot.

    ``weights_bytes`` are pages of the model file, which the kernel may drop and read again; everything else
    is anonymous memory, which it may not. ``supervisor_bytes`` belongs to the daemon's own process.
    """

    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    base_bytes: int
    supervisor_bytes: int = SUPERVISOR_BYTES

    @property
    def anon_bytes(self) -> int:
        """Anonymous memory of the worker."""
        return self.kv_bytes + self.state_bytes + self.compute_bytes + self.base_bytes

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.anon_bytes + self.supervisor_bytes


def kv_bytes_per_token(geometry: Geometry, kv_type: KvType) -> int:
    """KV cache of one token: keys and values of every layer with full attention."""
    size, elements = _KV_BLOCK[kv_type]
    return geometry.kv_layers * 2 * geometry.kv_heads * geometry.head_dim * size // elements


def state_bytes_per_sequence(geometry: Geometry) -> int:
    """Recurrent state of one sequence, f32 and independent of its length; 0 for pure attention.

    Convolution tail plus the state matrix of every Gated DeltaNet layer, as llama.cpp sizes them
    (``llama-hparams.cpp``: ``n_embd_r``, ``n_embd_s``).
    """
    inner = geometry.linear_value_heads * geometry.linear_head_dim
    keys = geometry.linear_key_heads * geometry.linear_head_dim
    convolution = max(geometry.linear_conv_kernel - 1, 0) * (inner + 2 * keys)
    matrix = geometry.linear_head_dim * inner
    return geometry.linear_layers * _F32 * (convolution + matrix)


def reserved_logits_bytes(geometry: Geometry, ubatch_tokens: int) -> int:
    """Address space for the logits of one step; only rows that are output become resident."""
    return ubatch_tokens * geometry.vocab * _F32


def _compute_bytes(geometry: Geometry, ubatch_tokens: int, slots: int) -> int:
    """Activations of one step, and one row of logits a slot in the graph and in the output buffer."""
    inner = geometry.linear_value_heads * geometry.linear_head_dim
    floats_per_token = 4 * geometry.hidden + 3 * geometry.feed_forward + 8 * inner
    logits = 2 * slots * geometry.vocab * _F32
    return _COMPUTE_FIXED_BYTES + ubatch_tokens * floats_per_token * _F32 + logits


def estimate_memory(
    geometry: Geometry,
    weights_bytes: int,
    *,
    context_tokens: int,
    slots: int,
    ubatch_tokens: int,
    kv_type: KvType = "f16",
    parked_sequences: int = PARKED_SEQUENCES,
) -> MemoryEstimate:
    """Memory of a model with ``slots`` sequences of ``context_tokens`` each, all of them full."""
    return MemoryEstimate(
        weights_bytes=weights_bytes,
        kv_bytes=kv_bytes_per_token(geometry, kv_type) * context_tokens * slots,
        state_bytes=state_bytes_per_sequence(geometry) * (slots + parked_sequences),
        compute_bytes=_compute_bytes(geometry, ubatch_tokens, slots),
        base_bytes=_PROCESS_BYTES + _TOKENIZER_BYTES_PER_TOKEN * geometry.vocab,
    )


def worker_budget_bytes(estimate: MemoryEstimate) -> int:
    """The limit on the worker's anonymous memory, in whole MiB.

    A tenth more for the allocator's fragmentation over weeks, and 32 MiB for prompts, templates and
    sampler state, which depend on clients and not on the model. With weight repacking the weights are
    anonymous too: add ``weights_bytes``.
    """
    return _whole_mib(estimate.anon_bytes * 110 // 100 + 32 * MIB)


def unit_memory_max_bytes(estimate: MemoryEstimate) -> int:
    """The outer limit, on daemon, worker and file pages together; 5 % spare, so that it never bites first."""
    inner = estimate.weights_bytes + worker_budget_bytes(estimate) + estimate.supervisor_bytes
    return _whole_mib(inner * 105 // 100)


def _whole_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB) * MIB
