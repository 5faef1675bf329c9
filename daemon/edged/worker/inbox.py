"""How a loop hears from the supervisor: everything that is there, between two steps of work."""

from __future__ import annotations

from queue import Empty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from queue import SimpleQueue

    from edged.ipc.messages import ToLoop


class Inbox:
    """``busy`` hears False while nothing is there to do, and True as soon as there is."""

    def __init__(self, queue: SimpleQueue[ToLoop], busy: Callable[[bool], None]) -> None:
        self._queue = queue
        self._busy = busy

    def messages(self, *, wait: bool, limit_s: float | None = None) -> Iterator[ToLoop]:
        """What has come; with ``wait`` at least one message, unless ``limit_s`` pass before."""
        if wait:
            self._busy(False)  # noqa: FBT003 - the name of the callable says what it is
            try:
                first = self._queue.get(timeout=limit_s)
            except Empty:
                first = None
            self._busy(True)  # noqa: FBT003 - from here on a template or a tokenizer may hang, too
            if first is not None:
                yield first
        while not self._queue.empty():
            yield self._queue.get()
