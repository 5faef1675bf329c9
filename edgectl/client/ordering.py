"""Puts streamed pieces in order, whatever the network lost, doubled or swapped. Pure."""

from __future__ import annotations

from edgectl.errors import Unhealthy

# Pieces that arrived after a gap are kept for the case that the missing one is only late. Beyond this
# many it is lost, and the final answer brings the text.
MAX_HELD = 512


class OrderedText:
    """Pieces in, text that is certain out; the final text completes what was lost on the way."""

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, str] = {}
        self._delivered: list[str] = []

    def add(self, seq: int, text: str) -> str:
        """The text that can be shown now that piece ``seq`` is here; empty while one before it is missing."""
        late = seq != self._next and len(self._held) >= MAX_HELD
        if seq < self._next or seq in self._held or late:
            return ""
        self._held[seq] = text
        ready: list[str] = []
        while self._next in self._held:
            ready.append(self._held.pop(self._next))
            self._next += 1
        piece = "".join(ready)
        self._delivered.append(piece)
        return piece

    def finish(self, text: str) -> str:
        """What is still to be shown of the final ``text``.

        Raises Unhealthy when what was shown is not how ``text`` begins.
        """
        shown = "".join(self._delivered)
        if not text.startswith(shown):
            raise Unhealthy(
                "the streamed text is not the beginning of the final answer",
                hint="ask again; if it stays, another client may be publishing on this client's topics",
            )
        self._held.clear()
        return text[len(shown) :]
