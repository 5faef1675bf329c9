"""Calls for one more request, each from a box with a free slot to one where requests wait (pure).

A call says no more than "now": one that nobody took up at once was lost, or nobody had anything to give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CALL_S = 0.5  # several times what a request takes to come, over a slow network too
MOST = 256  # a box has 64 slots at most


class Calls:
    """Calls that still count, the oldest first, each with the name of the box that made it."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, float]] = []

    def add(self, node: str, now_s: float) -> None:
        self._calls = [*self._valid(now_s), (node, now_s)][-MOST:]

    def count(self, now_s: float) -> int:
        return len(self._valid(now_s))

    def take(self, suits: Callable[[str], bool], now_s: float) -> str | None:
        """Remove the oldest call of a box that ``suits``; the box, or None when there is none."""
        self._calls = self._valid(now_s)
        for place, (node, _) in enumerate(self._calls):
            if suits(node):
                del self._calls[place]
                return node
        return None

    def clear(self) -> None:
        self._calls = []

    def _valid(self, now_s: float) -> list[tuple[str, float]]:
        return [call for call in self._calls if now_s - call[1] < CALL_S]
