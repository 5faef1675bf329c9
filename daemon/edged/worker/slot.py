"""A slot: one request at work, with what it has evaluated and said."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.ipc.messages import Token
    from edged.worker.backends.base import Sampler
    from edged.worker.output import Output
    from edged.worker.scoring import Scoring
    from edged.worker.speculate import Drafter
    from edged.worker.waiting import Waiting


class Slot:
    """One sequence at work: its tokens, how many are evaluated, what was said."""

    def __init__(self, index: int, request: Waiting, sampler: Sampler, output: Output) -> None:
        self.index = index
        self.key = request.order.key
        self.priority = request.order.priority
        self.deadline = request.deadline
        self.paused = False  # its reader has not taken what was said
        self.paused_s = 0.0  # since the first token, in pauses that are over
        self._paused_at = 0.0
        self.prompt = request.prompt
        self.tokens = list(request.prompt.tokens)  # the prompt, then every token drawn
        self.prompt_tokens = len(request.prompt.tokens)
        self.position = 0  # the first of ``tokens`` that is not evaluated yet
        self.stops: dict[int, bool] = {}  # positions where the state is to be kept → whether for many
        self.cached = 0  # tokens of the prompt that came from elsewhere
        self.kept = 0  # tokens of it that need not be kept again
        self.origin = b""  # the key of where they are kept
        self.sampler = sampler
        self.output = output
        self.first_token_at = 0.0
        self.untold: list[Token] = []  # what is certain of the answer and was not told yet
        self.untold_tokens = 0  # drawn since something was told
        self.due = 0.0  # when the next words may be told
        self.order = request.order
        self.tree = request.tree
        self.scoring: Scoring | None = None  # from the end of the prompt on, when there is a tree
        self.borrowed: list[int] = []  # sequences it works in besides its own
        self.drafter: Drafter | None = None  # of its answer, where drafts pay

    @property
    def pending(self) -> int:
        """Tokens still to evaluate: the prompt's rest, or the one just drawn."""
        return len(self.tokens) - self.position

    @property
    def reach(self) -> int:
        """Tokens it may take in one step: all that are pending, or those up to its next stop."""
        ends = [stop for stop in self.stops if stop > self.position]
        return min([len(self.tokens), *ends]) - self.position

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def decoding(self) -> bool:
        """The answer has begun, and no more than its last token is to be evaluated."""
        return self.generated > 0 and self.pending == 1

    def pause(self, now: float) -> None:
        if not self.paused:
            self.paused, self._paused_at = True, now

    def resume(self, now: float) -> None:
        if self.paused and self.generated:
            self.paused_s += now - max(self._paused_at, self.first_token_at)
        self.paused = False

    def take(self, count: int) -> list[int]:
        """The next ``count`` tokens to evaluate; they count as evaluated from here on."""
        start = self.position
        self.position += count
        return self.tokens[start : self.position]
