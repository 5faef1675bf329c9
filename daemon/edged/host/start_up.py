"""The start as the service manager sees it: ready once, and patience for a daemon that can only explain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edged.host import sdnotify

if TYPE_CHECKING:
    from collections.abc import Callable

EXTENSION_S = 120  # without another word for so long, TimeoutStartSec counts again
REPEAT_S = 30.0


class StartUp:
    """``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ready = False
        self._extended_at = -math.inf

    def ready(self) -> bool:
        """Say once that requests can be answered; whether that is news."""
        if self._ready:
            return False
        self._ready = True
        sdnotify.notify("READY=1")
        return True

    def failing(self) -> None:
        """The model could not be loaded, and attempts go on; called at least every minute while that is so.

        The manager would otherwise end us at TimeoutStartSec, again and again, and nobody could ask why.
        """
        now = self._clock()
        if self._ready or now - self._extended_at < REPEAT_S:
            return
        self._extended_at = now
        sdnotify.notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}")
