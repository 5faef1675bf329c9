"""Tells whose message a broker refused: it names one by an id that comes again, maybe before we know it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Refusals:
    """Used by the threads that send and the one that hears; locks nothing while it calls others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sending = 0  # messages whose id is not known yet
        self._early: dict[int, str] = {}  # acknowledged meanwhile, with why when refused
        self._waiting: dict[int, Callable[[str], None]] = {}

    def send(self, publish: Callable[[], int], refused: Callable[[str], None]) -> None:
        """Call ``publish``, which returns the id; ``refused`` hears why the broker will not have it."""
        with self._lock:
            self._sending += 1
        mid: int | None = None
        why = ""
        try:
            mid = publish()
        finally:
            with self._lock:
                self._sending -= 1
                if mid in self._early:
                    why = self._early.pop(mid)
                elif mid is not None:
                    self._waiting[mid] = refused
                if not self._sending:
                    self._early.clear()
        if why:
            refused(why)

    def acknowledged(self, mid: int, why: str) -> None:
        """The broker has answered message ``mid``; ``why`` is empty when it took it."""
        with self._lock:
            refused = self._waiting.pop(mid, None)
            if refused is None and self._sending:
                self._early[mid] = why
        if why and refused is not None:
            refused(why)
