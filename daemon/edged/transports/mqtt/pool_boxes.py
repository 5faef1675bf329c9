"""Which boxes share the work of a pool, as their retained messages say (pure; time is passed in).

``<pool>/box/<node>`` holds ``{"state": "serving" | "away" | "offline", "can": {...}}``. *Serving* boxes take
work, *away* ones are connected but loading, hot, short of memory or stopping, *offline* is the will.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from edged.api.config import NODE_PATTERN
from edged.transports.mqtt.pool_needs import Can

if TYPE_CHECKING:
    from collections.abc import Iterator

REFRESH_S = 60.0  # how often a box repeats itself
STALE_S = 200.0  # three repeats missed: a will that no broker was there to publish
MAX_BOXES = 1000  # each hears all of them; beyond it several pools serve better

State = Literal["serving", "away", "offline"]


class Box(Struct, frozen=True):
    """What one box says of itself."""

    state: State
    can: Can


class Boxes:
    """All boxes but this one."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._boxes: dict[str, tuple[Box, float]] = {}  # node → what it said, and when it was heard

    def hear(self, node: str, payload: bytes, now_s: float) -> bool:
        """Take in a message on the topic of ``node``; False when it is none of ours. Empty: it is gone."""
        if node == self._node:
            return True
        if not payload:
            self._boxes.pop(node, None)
            return True
        known = node in self._boxes or len(self._boxes) < MAX_BOXES
        if not known or not NODE_PATTERN.fullmatch(node):
            return False
        try:
            self._boxes[node] = (msgspec.json.decode(payload, type=Box), now_s)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def forget(self, node: str) -> None:
        self._boxes.pop(node, None)

    def state(self, node: str, now_s: float) -> State | None:
        """None when the box is not known."""
        entry = self._boxes.get(node)
        if entry is None:
            return None
        return "offline" if now_s - entry[1] > STALE_S else entry[0].state

    def can(self, node: str) -> Can | None:
        """What the box can do; None when it is not known."""
        entry = self._boxes.get(node)
        return None if entry is None else entry[0].can

    def serving(self, now_s: float) -> dict[str, Can]:
        """What the boxes that take work can do, by node."""
        return {node: box.can for node, box in self._all() if self.state(node, now_s) == "serving"}

    def known(self) -> list[Can]:
        """What the boxes of this pool can do, whether they are there or not."""
        return [box.can for _, box in self._all()]

    def kinds(self) -> set[str]:
        return {can.kind for can in self.known()}

    def orphans(self, now_s: float, *, serving: bool) -> list[str]:
        """The boxes that are offline and whose work is this box's to take over.

        It falls to the next serving box in the order of names, so that all who hear of a death agree on
        the heir without a word. Nobody takes over while this box is not ``serving`` itself.
        """
        heirs = sorted([*self.serving(now_s), *([self._node] if serving else [])])
        lost = [node for node, _ in self._all() if self.state(node, now_s) == "offline"]
        return [
            node for node in lost
            if heirs and next((heir for heir in heirs if heir > node), heirs[0]) == self._node
        ]  # fmt: skip

    def _all(self) -> Iterator[tuple[str, Box]]:
        for node, (box, _) in tuple(self._boxes.items()):
            yield node, box
