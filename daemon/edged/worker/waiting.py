"""Requests that have no slot yet, the urgent ones first, and the time each has left."""

from __future__ import annotations

import math
from bisect import insort
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.ipc.messages import Start
from edged.worker.choices import ChoiceTree
from edged.worker.prompt import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator


class Waiting(Struct, frozen=True):
    """A request that could begin; ``deadline`` is on the loop's clock, in seconds.

    With a ``tree`` the choices in it are scored in place of an answer.
    """

    order: Start
    prompt: Prompt
    deadline: float = math.inf
    tree: ChoiceTree | None = None

    @property
    def rank(self) -> int:
        """Smaller is sooner."""
        return -self.order.priority


class WaitingRoom:
    """Iterates by priority, then in order of arrival."""

    def __init__(self) -> None:
        self._entries: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._entries))

    def add(self, entry: Waiting) -> None:
        insort(self._entries, entry, key=lambda one: one.rank)

    def remove(self, key: int) -> bool:
        """False when no request with ``key`` waits."""
        left = [entry for entry in self._entries if entry.order.key != key]
        found = len(left) < len(self._entries)
        self._entries = left
        return found
