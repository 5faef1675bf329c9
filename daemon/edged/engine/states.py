"""The engine's state machine as a table, with one mover that checks and logs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edged.api.status import EngineState as S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger("edged.engine")

ALLOWED: Mapping[S, frozenset[S]] = {
    S.ABSENT: frozenset({S.SPAWNING}),
    S.SPAWNING: frozenset({S.LOADING, S.KILLING}),
    S.LOADING: frozenset({S.READY, S.KILLING}),
    S.READY: frozenset({S.RECYCLING, S.KILLING}),
    S.RECYCLING: frozenset({S.KILLING}),
    S.KILLING: frozenset({S.SPAWNING, S.BACKOFF, S.BROKEN, S.UNLOADED, S.ABSENT}),
    S.BACKOFF: frozenset({S.SPAWNING, S.UNLOADED, S.ABSENT}),
    S.BROKEN: frozenset({S.SPAWNING, S.UNLOADED, S.ABSENT}),
    S.UNLOADED: frozenset({S.SPAWNING, S.ABSENT}),
}


class EngineStates:
    """Holds the state; ``changed`` is called after every move."""

    def __init__(self, changed: Callable[[S, str], None]) -> None:
        self.now = S.ABSENT
        self._changed = changed

    def move(self, new: S, why: str) -> None:
        """Go to ``new``; raises ValueError when the table forbids it, which is a defect."""
        if new not in ALLOWED[self.now]:
            raise ValueError(f"the engine cannot go from {self.now} to {new} ({why})")
        log.info("engine %s→%s %s", self.now, new, why)
        self.now = new
        self._changed(new, why)
