"""Notices that a model runs in a circle, which small ones do and never leave again."""

from __future__ import annotations

MAX_PERIOD_TOKENS = 128  # about a paragraph
MIN_TURNS = 6
MIN_TOKENS = 256  # a ruler of dashes or a table of zeros is shorter than that
CHECK_EVERY_TOKENS = 16  # a check costs some microseconds, and a circle does not end


class Circle:
    """Feed tokens one by one."""

    def __init__(self) -> None:
        self._tokens: list[int] = []

    def push(self, token: int) -> bool:
        """Whether the last tokens are one sequence over and over again.

        That is: the last 256 or more tokens repeat with a period of at most 128, six times at least.
        """
        tokens = self._tokens
        tokens.append(token)
        if len(tokens) < MIN_TOKENS or len(tokens) % CHECK_EVERY_TOKENS:
            return False
        del tokens[: -(MAX_PERIOD_TOKENS * MIN_TURNS)]
        return any(
            tokens[-1 - period] == token and self._turns(period)
            for period in range(1, min(MAX_PERIOD_TOKENS, len(tokens) // MIN_TURNS) + 1)
        )

    def _turns(self, period: int) -> bool:
        span = self._tokens[-max(MIN_TOKENS, period * MIN_TURNS) :]
        return span[period:] == span[:-period]
