"""A slot: one request at work, with what it has evaluated and said."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.ipc.messages import Start
    from edged.worker.backends.base import Sampler
    from edged.worker.output import Output


class Slot:
    """One sequence at work: its tokens, how many are evaluated, what was said."""

    def __init__(
        self, index: int, order: Start, prompt: list[int], sampler: Sampler, output: Output
    ) -> None:
        self.index = index
        self.key = order.key
        self.tokens = list(prompt)  # the prompt, then every token drawn
        self.prompt_tokens = len(prompt)
        self.position = 0  # the first of ``tokens`` that is not evaluated yet
        self.sampler = sampler
        self.output = output
        self.first_token_at = 0.0

    @property
    def pending(self) -> int:
        """Tokens still to evaluate: the prompt's rest, or the one just drawn."""
        return len(self.tokens) - self.position

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def decoding(self) -> bool:
        """The answer has begun, and no more than its last token is to be evaluated."""
        return self.generated > 0 and self.pending == 1

    def take(self, count: int) -> list[int]:
        """The next ``count`` tokens to evaluate; they count as evaluated from here on."""
        start = self.position
        self.position += count
        return self.tokens[start : self.position]
