"""How llama.cpp makes one vector of a text: the pooling a model file names, and what it asks of a context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llama_cpp import llama_cpp as api

from edged.worker.backends.base import LoadError, Pooling
from edged.worker.backends.llama_metadata import metadata

if TYPE_CHECKING:
    from edged.ipc.messages import EngineOptions

_NAMES: dict[int, Literal["mean", "cls", "last"]] = {
    api.LLAMA_POOLING_TYPE_MEAN: "mean",
    api.LLAMA_POOLING_TYPE_CLS: "cls",
    api.LLAMA_POOLING_TYPE_LAST: "last",
}


def pooling_of(model: int, options: EngineOptions) -> Pooling:
    """The pooling in the metadata of ``model``; where it names none, as in chat models, the usual one.

    Raises LoadError for a model that ranks instead.
    """
    arch = metadata(model, "general.architecture")
    causal = metadata(model, f"{arch}.attention.causal") != "false"
    named = int(metadata(model, f"{arch}.pooling_type") or api.LLAMA_POOLING_TYPE_NONE)
    if named == api.LLAMA_POOLING_TYPE_RANK:
        raise LoadError("this model ranks texts; it makes no embeddings of them")
    kind = _NAMES.get(named) or ("last" if causal else "mean")
    # The state of the last token alone holds the text only where no token looks ahead.
    if kind == "last" and causal:
        return Pooling(kind=kind, piecewise=True, texts=options.slots, tokens=options.context)
    tokens = min(options.ubatch, options.context, api.llama_model_n_ctx_train(model))
    recurrent = api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model)
    # Recurrent layers cut texts of different lengths into parts, and a pool takes in no more than a part.
    return Pooling(kind=kind, piecewise=False, texts=1 if recurrent else options.slots, tokens=tokens)


def prepare(params: Any, pooling: Pooling, options: EngineOptions) -> None:
    """Make context parameters those of an embedding context."""
    if pooling.piecewise:
        # Every token would be an output otherwise, with logits of the whole vocabulary.
        params.embeddings = False
        params.pooling_type = api.LLAMA_POOLING_TYPE_NONE
        return
    params.embeddings = True
    params.pooling_type = next(number for number, name in _NAMES.items() if name == pooling.kind)
    params.n_ctx = params.n_outputs_max = options.ubatch  # no text is kept from one step to the next
    params.kv_unified = True  # with cells of their own, texts of different lengths are cut into parts


def vector(pointer: Any, model: int) -> list[float]:
    """The numbers at ``pointer``, which the last step returned."""
    return list(pointer[: api.llama_model_n_embd_out(model)])
