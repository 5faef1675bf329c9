"""How many tokens llama.cpp may evaluate on trial here, and at what price."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llama_cpp import llama_cpp as api

from edged.worker.backends.llama_context import in_one_pass

if TYPE_CHECKING:
    from edged.ipc.messages import EngineOptions

log = logging.getLogger("edged.worker.llama")

# Each takes a row of logits; a step of eight costs two or three of one, so that more hardly ever pay.
DRAFT_TOKENS = 7
# Recurrent layers keep a state for each token that may be taken back: 19 MiB a token and slot in
# Qwen3.5-0.8B.
RECURRENT_DRAFT_TOKENS = 3


class LastRuns:
    """Of each sequence with recurrent layers, what llama.cpp can take back: its last run but for one token.

    llama.cpp also takes back all of a run, or one before it, and says so, but the state stays what it was;
    and a copy of a sequence is one of all that was evaluated, until the next step has made it shorter.
    """

    def __init__(self) -> None:
        self._starts: dict[int, int] = {}
        self._cut: set[int] = set()

    def evaluated(self, seq: int, start: int) -> None:
        self._starts[seq] = start
        self._cut.discard(seq)

    def forget(self, seq: int) -> None:
        self._starts.pop(seq, None)
        self._cut.discard(seq)

    def allows(self, seq: int, length: int) -> bool:
        """Whether ``seq`` can become its first ``length`` tokens."""
        return length > self._starts.get(seq, length)

    def cut(self, seq: int) -> None:
        """Some of it was taken back."""
        self._cut.add(seq)

    def can_be_copied(self, seq: int) -> bool:
        return seq not in self._cut


def is_recurrent(model: int) -> bool:
    """Whether a sequence is, in some layers, one state instead of a cache of its tokens."""
    return bool(api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model))


def draft_tokens(model: int, options: EngineOptions) -> int:
    """Tokens that a step may hold on trial; 0 where that is not wanted, or would take much memory unasked."""
    if options.speculate == "off":
        return 0
    if api.llama_model_n_swa(model) > 0:
        log.info("no drafts: layers of this model that look back a window forget what taking back would need")
        return 0
    if not in_one_pass(model, options):
        log.info(
            "no drafts: this model's narrow heads are faster with scores, which are rounded otherwise for "
            'several tokens than for one; model.speculate = "on" drafts instead'
        )
        return 0
    most = DRAFT_TOKENS
    if is_recurrent(model):
        if options.speculate == "auto":
            log.info(
                "no drafts: this model's recurrent state would be kept %d times more for each slot; "
                'model.speculate = "on" allows it',
                RECURRENT_DRAFT_TOKENS,
            )
            return 0
        most = RECURRENT_DRAFT_TOKENS
    return min(most, options.ubatch - 1)
