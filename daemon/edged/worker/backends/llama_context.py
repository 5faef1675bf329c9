"""What a context of llama.cpp is made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cpp import llama_cpp as api

from edged.api.attention import flash_attention
from edged.worker.backends.llama_embedding import prepare
from edged.worker.backends.llama_metadata import metadata

if TYPE_CHECKING:
    from edged.ipc.messages import EngineOptions
    from edged.worker.backends.base import Pooling

KV_TYPES = {"f16": api.GGML_TYPE_F16, "q8_0": api.GGML_TYPE_Q8_0}


def context_params(model: int, options: EngineOptions, pooling: Pooling | None, drafts: int) -> object:
    """For :func:`llama_init_from_model`; ``drafts`` tokens may be on trial in a step."""
    params = api.llama_context_default_params()
    params.n_ctx = options.context * options.slots
    params.n_batch = options.ubatch
    params.n_ubatch = options.ubatch
    params.n_seq_max = options.slots
    # Rows of logits that can be asked for at once: one a slot, and one for each token on trial. Without it
    # n_ubatch × vocabulary is reserved.
    params.n_outputs_max = options.slots + drafts
    params.n_rs_seq = drafts  # states of recurrent layers to go back to; others take no notice
    params.n_threads = options.threads
    params.n_threads_batch = options.batch_threads or options.threads
    params.type_k = params.type_v = KV_TYPES[options.kv_type]
    if pooling is None and not in_one_pass(model, options):
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.kv_unified = False
    # Layers that look back a window keep only that: no sequence here is ever cut back to an earlier position.
    params.swa_full = False
    params.no_perf = True
    if pooling is not None:
        prepare(params, pooling, options)
    return params


def in_one_pass(model: int, options: EngineOptions) -> bool:
    """Whether attention is computed so; drafts that are wanted come before speed.

    The engine rounds scores otherwise for one token than for several, so that a draft could change an answer.
    """
    if options.speculate == "on":
        return True
    heads = max(1, api.llama_model_n_head(model))
    arch = metadata(model, "general.architecture")
    named = metadata(model, f"{arch}.attention.key_length")
    return flash_attention(
        head_dim=int(named) if named.isdigit() else api.llama_model_n_embd(model) // heads,
        heads=heads,
        cells=options.context,
        ubatch_tokens=options.ubatch,
        quantized=options.kv_type != "f16",
    )
