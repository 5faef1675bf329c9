"""A log that a flood of requests cannot flood: so many lines in a while, and then a count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

LINES = 50
WINDOW_S = 10.0  # 50 lines in 10 s: a person can still follow, a journal does not grow


class QuietLog:
    """Passes at most LINES lines each WINDOW_S on to ``logger``; says how many it left out."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._began_s = clock()
        self._written = 0
        self._left_out = 0

    def info(self, line: str, *values: Any) -> None:
        if self._room():
            self._logger.info(line, *values)

    def warning(self, line: str, *values: Any) -> None:
        if self._room():
            self._logger.warning(line, *values)

    def _room(self) -> bool:
        now_s = self._clock()
        if now_s - self._began_s >= WINDOW_S:
            if self._left_out:
                self._logger.warning("%d lines were left out in the last flood", self._left_out)
            self._began_s, self._written, self._left_out = now_s, 0, 0
        if self._written >= LINES:
            self._left_out += 1
            return False
        self._written += 1
        return True
