"""Holds back text that may become a stop string, so that none is ever shown."""

from __future__ import annotations


class StopStrings:
    """Feed text, take text that is certain.

    Text that may still grow into one of ``stop`` is held back; once a stop
    string is complete, ``stopped`` is True and nothing from it on is given out.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self.held = ""
        self.stopped = False

    def push(self, new: str) -> str:
        """The text that ``new`` makes certain, possibly empty."""
        if self.stopped or not new:
            return ""
        text = self.held + new
        found = [(index + len(stop), index) for stop in self._stop if (index := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self.held = ""
            # The one that is complete first, so that it does not matter in what pieces the text came.
            return text[: min(found)[1]]
        keep = max((overlap(text, stop) for stop in self._stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What is left at the end of the answer."""
        rest, self.held = self.held, ""
        return rest


def overlap(text: str, word: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``word``."""
    for length in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
