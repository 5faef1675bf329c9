"""How much memory a model takes: weights, KV cache, recurrent state, buffers, tokenizer, process.

Each term is what the engine allocates (llama.cpp as llama-cpp-python 0.3.36 carries it; its files are named)
or what was measured of a worker on x86-64 with glibc, which tests/bench/memory.py does again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from edgectl.planning.buffers import (
    attention_scores_bytes,
    compute_buffer_bytes,
    graph_bytes,
    logit_rows,
)

if TYPE_CHECKING:
    from edgectl.planning.catalog import Geometry


__all__ = [
    "KvType", "MemoryEstimate", "cells_per_sequence", "estimate_memory", "kv_bytes_per_cell",
    "kv_bytes_per_token", "kv_cache_bytes", "mapped_bytes", "reserved_logits_bytes",
    "state_bytes_per_sequence", "unit_memory_max_bytes", "window_cells_per_sequence", "worker_budget_bytes",
]  # fmt: skip

MIB = 1 << 20
KvType = Literal["f16", "q8_0", "q4_0"]

# Bytes of a block and elements in it, as ggml defines the types.
_KV_BLOCK: dict[KvType, tuple[int, int]] = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}
_F32: Final = 4

SUPERVISOR_BYTES: Final = 64 * MIB  # 45 MiB promised without a model, and room for queued requests

# Cells come in such pieces: n_ctx, n_ctx_seq (llama-context.cpp), a sliding window's (llama-kv-cache-iswa).
CELL_PIECE: Final = 256
# What the engine notes of a cell (llama-kv-cells.h): position 4 B, shift 4 B, place in an image 12 B, one bit
# for each of 256 sequences; once it is used, a node in each of two ordered sets, 48 B from the allocator.
CELL_BYTES: Final = 52
USED_CELL_BYTES: Final = 96
CANDIDATE_BYTES: Final = 12  # llama_token_data; a sampler keeps one for each token of the vocabulary

# Anonymous memory of a worker before it loads a model, and of its threads and compiled template: 24.4 to 25.5
# MiB measured with five models. Of it 4.9 are Python's, 8.6 edged's modules', 8.9 the engine binding's.
PROCESS_BYTES: Final = 26 * MIB
# Pages of Python, libc, numpy and the engine's libraries: 22.6 to 23.4 MiB measured.
LIBRARY_BYTES: Final = 24 * MIB
# A token: its text, score and kind, its place in a hash table, its decoded text (llama-vocab.cpp). Measured
# with gemma3, whose tokenizer has no merges: 41.5 MiB for 262,144.
TOKEN_BYTES: Final = 168
# A merge: a pair of texts in a hash table. Measured: with tokens 16.5 MiB for SmolLM2 (49,152 tokens, 48,900
# merges), 83.5 MiB for a vocabulary of Qwen3.5's size (248,320 and 247,788).
MERGE_BYTES: Final = 188
# Of a file's header, for each token at least: its text with a length, its kind, and its merge or score.
# 36.3 B in SmolLM2, 44.1 in Qwen3.5; 24.9 in gemma3, without merges.
HEADER_BYTES_PER_TOKEN: Final = 24
HEADER_BYTES_PER_MERGE: Final = 12


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """Resident bytes at full context on every slot.

    ``weights_bytes`` and ``library_bytes`` are pages of files, which the kernel may drop and read again;
    everything else is anonymous memory, which it may not. ``loaded_bytes`` are the weights of a file that is
    read instead of mapped; ``repacked_bytes`` weights that the engine holds a second time, in the order its
    kernels like; ``cache_bytes`` are for evaluated prompts that are kept. ``supervisor_bytes`` belongs to the
    daemon's process.
    """

    weights_bytes: int
    loaded_bytes: int = 0
    repacked_bytes: int = 0
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    tokenizer_bytes: int
    cache_bytes: int = 0
    base_bytes: int = PROCESS_BYTES
    library_bytes: int = LIBRARY_BYTES
    supervisor_bytes: int = SUPERVISOR_BYTES

    @property
    def anon_bytes(self) -> int:
        """Anonymous memory of the worker."""
        working = self.kv_bytes + self.state_bytes + self.compute_bytes + self.cache_bytes
        weights = self.loaded_bytes + self.repacked_bytes
        return weights + working + self.tokenizer_bytes + self.base_bytes

    @property
    def worker_bytes(self) -> int:
        """All that the worker has resident: RssAnon and RssFile of /proc/PID/status, and its swap."""
        return self.weights_bytes + self.library_bytes + self.anon_bytes

    @property
    def total_bytes(self) -> int:
        return self.worker_bytes + self.supervisor_bytes


def cells_per_sequence(context_tokens: int, slots: int = 1) -> int:
    """Cells of the KV cache that one of ``slots`` sequences gets (``llama_context`` in llama-context.cpp)."""
    return _pieces(_pieces(context_tokens * slots) // slots)


def window_cells_per_sequence(window_tokens: int, cells: int, ubatch_tokens: int) -> int:
    """Cells of a layer that looks back ``window_tokens`` only (llama-kv-cache-iswa.cpp)."""
    return _pieces(min(cells, window_tokens + ubatch_tokens))


def kv_bytes_per_token(geometry: Geometry, kv_type: KvType) -> int:
    """KV cache of one token: keys and values of every layer that sees the whole context."""
    return geometry.kv_layers * kv_bytes_per_cell(geometry, kv_type)


def kv_cache_bytes(
    geometry: Geometry, *, context_tokens: int, slots: int, ubatch_tokens: int, kv_type: KvType
) -> int:
    """Keys and values of all cells. The engine writes zeros to them, so they are resident from the start."""
    cells = cells_per_sequence(context_tokens, slots)
    window = window_cells_per_sequence(geometry.sliding_window, cells, ubatch_tokens)
    layers_cells = geometry.kv_layers * cells + geometry.sliding_layers * window
    return slots * layers_cells * kv_bytes_per_cell(geometry, kv_type)


def kv_bytes_per_cell(geometry: Geometry, kv_type: KvType) -> int:
    """Keys and values of one token in one layer."""
    size, elements = _KV_BLOCK[kv_type]
    return 2 * geometry.kv_heads * geometry.head_dim * size // elements


def state_bytes_per_sequence(geometry: Geometry) -> int:
    """Recurrent state of one sequence, f32 and independent of its length; 0 for pure attention.

    Convolution tail plus the state matrix of every Gated DeltaNet layer, as llama.cpp sizes them
    (``llama-hparams.cpp``: ``n_embd_r``, ``n_embd_s``).
    """
    return geometry.linear_layers * _F32 * (geometry.convolution_state + geometry.matrix_state)


def reserved_logits_bytes(geometry: Geometry, rows: int) -> int:
    """Logits of ``rows`` tokens. The engine asks for few rows; others reserve one a token of a step."""
    return rows * geometry.vocab * _F32


def _compute_bytes(geometry: Geometry, cells: int, slots: int, ubatch_tokens: int, *, quantized: bool) -> int:
    """All that a step works in: activations, graphs, logits, candidates, and the notes about cells."""
    window = window_cells_per_sequence(geometry.sliding_window, cells, ubatch_tokens)
    noted = cells + (window if geometry.sliding_layers else 0)
    scores = attention_scores_bytes(geometry, cells=noted, ubatch_tokens=ubatch_tokens, quantized=quantized)
    rows = logit_rows(geometry, slots, ubatch_tokens, scores=scores > 0)
    return (
        compute_buffer_bytes(
            geometry, cells=noted, slots=slots, ubatch_tokens=ubatch_tokens, quantized=quantized
        )
        # Scores as f16, to be multiplied with the values (work size of a graph in ggml-cpu.c).
        + scores // 2
        + graph_bytes(geometry, ubatch_tokens)
        # The output buffer (llama-context.cpp, output_reserve).
        + reserved_logits_bytes(geometry, rows)
        + slots * geometry.vocab * CANDIDATE_BYTES  # llama-sampler.cpp: each chain keeps its own
        + slots * noted * (CELL_BYTES + USED_CELL_BYTES)
        # A quantized cache is rotated first, by one matrix for keys and one for values (llama-kv-cache.cpp).
        + (2 * geometry.head_dim**2 * _F32 if quantized else 0)
    )


def mapped_bytes(geometry: Geometry, file_bytes: int) -> int:
    """What stays mapped of a file whose header was not read: all but the least that its tokenizer takes.

    The engine unmaps the header once the model is loaded (``unmap_fragment`` in llama-mmap.cpp).
    """
    header = HEADER_BYTES_PER_TOKEN * geometry.vocab + HEADER_BYTES_PER_MERGE * _merges(geometry)
    return max(file_bytes - header, 0)


def estimate_memory(
    geometry: Geometry,
    weights_bytes: int,
    *,
    context_tokens: int,
    slots: int,
    ubatch_tokens: int,
    kv_type: KvType = "f16",
    repacked_bytes: int = 0,
    mmap: bool = True,
) -> MemoryEstimate:
    """Memory of a model with ``slots`` sequences of ``context_tokens`` each, all of them full.

    ``weights_bytes`` is what stays mapped, or is read without ``mmap``: the tensors; see
    :func:`mapped_bytes` for a file not at hand.
    ``repacked_bytes`` see :func:`edgectl.planning.repack.repacked_bytes`; 0 when repacking is off.
    """
    cells = cells_per_sequence(context_tokens, slots)
    return MemoryEstimate(
        weights_bytes=weights_bytes if mmap else 0,
        loaded_bytes=0 if mmap else weights_bytes,
        repacked_bytes=repacked_bytes,
        kv_bytes=kv_cache_bytes(
            geometry,
            context_tokens=context_tokens,
            slots=slots,
            ubatch_tokens=ubatch_tokens,
            kv_type=kv_type,
        ),
        state_bytes=state_bytes_per_sequence(geometry) * slots,
        compute_bytes=_compute_bytes(geometry, cells, slots, ubatch_tokens, quantized=kv_type != "f16"),
        tokenizer_bytes=TOKEN_BYTES * geometry.vocab + MERGE_BYTES * _merges(geometry),
    )


def worker_budget_bytes(estimate: MemoryEstimate) -> int:
    """The limit on the worker's anonymous memory, in whole MiB.

    A tenth more for the allocator's fragmentation over weeks, and 32 MiB for prompts, templates and
    sampler state, which depend on clients and not on the model. Weights that are read are one piece.
    """
    working = estimate.anon_bytes - estimate.loaded_bytes
    return _whole_mib(working * 110 // 100 + estimate.loaded_bytes + 32 * MIB)


def unit_memory_max_bytes(estimate: MemoryEstimate) -> int:
    """The outer limit, on daemon, worker and file pages together; 5 % spare, so that it never bites first."""
    files = estimate.weights_bytes + estimate.library_bytes
    inner = files + worker_budget_bytes(estimate) + estimate.supervisor_bytes
    return _whole_mib(inner * 105 // 100)


def _merges(geometry: Geometry) -> int:
    return geometry.vocab if geometry.merges is None else geometry.merges


def _pieces(cells: int) -> int:
    return -(-cells // CELL_PIECE) * CELL_PIECE


def _whole_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB) * MIB
