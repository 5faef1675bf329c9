"""A slot: one request at work, with what it has evaluated and said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.worker.text import TextStream

if TYPE_CHECKING:
    from edged.ipc.messages import Start
    from edged.worker.backends.base import Sampler


class Slot:
    """One sequence at work: its prompt, what is evaluated, what was said."""

    def __init__(
        self, index: int, order: Start, prompt: list[int], sampler: Sampler, max_tokens: int
    ) -> None:
        self.index = index
        self.key = order.key
        self.prompt_tokens = len(prompt)
        self.pending = prompt  # tokens to evaluate: the prompt's rest, or the one just drawn
        self.position = 0
        self.generated = 0
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.text = TextStream(order.stop)
        self.first_token_at = 0.0

    @property
    def decoding(self) -> bool:
        return self.generated > 0
