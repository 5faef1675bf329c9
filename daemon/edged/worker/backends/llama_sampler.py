"""How llama.cpp draws tokens: one chain of samplers a request; and what logits say of probabilities."""

from __future__ import annotations

import ctypes
import os
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llama_cpp import llama_cpp as api

from edged.worker.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.requests import Sampling
    from edged.worker.backends.base import Allows
    from edged.worker.backends.beginnings import Beginnings

Logits: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Tokens: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
# How many of the likeliest tokens are tried when the one drawn is not allowed, before the whole vocabulary is
# searched, which may have a quarter of a million.
DEPTH = 256

PENALTY_WINDOW_TOKENS = 256  # the last tokens that count as repetition
# A request that names no value and a model without a preset: llama.cpp's own defaults, without its penalties.
NEUTRAL = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05}


class LlamaSampler:
    """A chain of llama.cpp samplers: penalties, top-k, top-p, min-p, temperature, then a seeded draw."""

    def __init__(
        self, sampling: Sampling, n_vocab: int, prompt: Sequence[int], beginnings: Beginnings
    ) -> None:
        self._beginnings = beginnings
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        self.chain = chain
        penalties = (
            sampling.repeat_penalty or 1.0,
            sampling.frequency_penalty or 0.0,
            sampling.presence_penalty or 0.0,
        )
        self._remembers = penalties != (1.0, 0.0, 0.0)  # what was said counts
        temperature = _or_neutral(sampling, "temperature")
        self._greedy = temperature == 0 and not self._remembers
        top_k = int(_or_neutral(sampling, "top_k"))
        # The chain looks at no more than so many of the likeliest, unless penalties change which they are.
        self._enough = 1 if self._greedy else DEPTH if self._remembers or top_k <= 0 else top_k
        if self._remembers:
            window = PENALTY_WINDOW_TOKENS
            self._add(api.llama_sampler_init_penalties(n_vocab, window, *penalties))
            for token in prompt[-window:]:
                api.llama_sampler_accept(chain, token)
        if temperature == 0:
            self._add(api.llama_sampler_init_greedy())
            return
        if top_k > 0:
            self._add(api.llama_sampler_init_top_k(top_k))
        self._add(api.llama_sampler_init_top_p(_or_neutral(sampling, "top_p"), 1))
        self._add(api.llama_sampler_init_min_p(_or_neutral(sampling, "min_p"), 1))
        self._add(api.llama_sampler_init_temp(temperature))
        seed = sampling.seed if sampling.seed is not None else int.from_bytes(os.urandom(4), "little")
        # To llama.cpp the largest number means "draw a seed", which no client with a seed asks for.
        self._add(api.llama_sampler_init_dist(seed % api.LLAMA_DEFAULT_SEED))

    def draw(self, context: Any, row: int, logits: Logits, allows: Allows | None) -> int:
        """A token by ``logits``, which are those of ``row`` in ``context``.

        It is the one that is drawn freely if ``allows`` has nothing against it, otherwise one among the
        likeliest that are allowed. Raises Refused when no token of the vocabulary is.
        """
        if self._greedy:  # the first of the highest, as llama.cpp has it, in a tenth of the time
            token = int(logits.argmax())
        elif allows is None or not self._remembers:
            token = int(api.llama_sampler_sample(self.chain, context, row))
        else:
            token = self._apply(logits, np.arange(len(logits), dtype=np.int32))
        if allows is None:
            return token
        if not allows(token):
            token = self._apply(logits, _allowed(logits, allows, self._enough, self._beginnings))
        if self._remembers:
            api.llama_sampler_accept(self.chain, token)
        return token

    def _apply(self, logits: Logits, tokens: Tokens) -> int:
        """Draw among ``tokens``, without counting the one drawn as said."""
        candidates = np.empty(len(tokens), dtype=_CANDIDATE)
        candidates["id"] = tokens
        candidates["logit"] = logits[tokens]
        candidates["p"] = 0
        array = api.llama_token_data_array(
            data=candidates.ctypes.data_as(api.llama_token_data_p),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        api.llama_sampler_apply(self.chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def close(self) -> None:
        api.llama_sampler_free(self.chain)

    def _add(self, sampler: int) -> None:
        api.llama_sampler_chain_add(self.chain, sampler)


def _or_neutral(sampling: Sampling, name: str) -> float:
    value = getattr(sampling, name)
    return float(NEUTRAL[name] if value is None else value)


def _allowed(logits: Logits, allows: Allows, enough: int, beginnings: Beginnings) -> Tokens:
    """The likeliest ``enough`` that are allowed, of the first of these that has any: few, many, all."""
    stages: tuple[Callable[[], list[int]], ...] = (
        lambda: top(logits, min(DEPTH, len(logits))),
        lambda: ranked(logits, beginnings.possible(allows)),
        lambda: top(logits, len(logits)),
    )
    for stage in stages:
        found = list(islice(filter(allows, stage()), enough))
        if found:
            return np.array(found, dtype=np.int32)
    raise Refused("the model has no token that the answer may go on with")


def logits_at(pointer: Any, count: int) -> Logits:
    """The memory at ``pointer`` as an array; valid until the next step."""
    return np.ctypeslib.as_array(pointer, shape=(count,))


def log_softmax(logits: Logits, tokens: Sequence[int]) -> list[float]:
    """Log-probabilities of ``tokens`` among the whole vocabulary."""
    highest = logits.max()
    total = np.exp(logits - highest, dtype=np.float32).sum(dtype=np.float64)
    return [float(value) for value in logits[list(tokens)] - highest - np.log(total)]


def top(logits: Logits, count: int) -> list[int]:
    """The ``count`` tokens of the highest logits, the highest first."""
    return ranked(logits, np.argpartition(logits, -count)[-count:]) if count >= 1 else []


def ranked(logits: Logits, tokens: np.ndarray[Any, Any]) -> list[int]:
    """``tokens``, the one of the highest logit first."""
    order = np.argsort(-logits[tokens], kind="stable")
    return [int(token) for token in tokens[order]]
