"""Turns token bytes into text: whole code points only, stop strings never shown."""

from __future__ import annotations

import codecs


class TextStream:
    """Feed bytes, take text that is certain.

    Text that may still grow into one of ``stop`` is held back; once a stop
    string is complete, ``stopped`` is True and nothing from it on is given out.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        """The text that ``data`` makes certain, possibly empty."""
        return self._take(self._decoder.decode(data))

    def finish(self) -> str:
        """What is left at the end of the answer; a broken last code point becomes U+FFFD."""
        text = self._take(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _take(self, new: str) -> str:
        if self.stopped or not new:
            return ""
        text = self._held + new
        found = [(index + len(stop), index) for stop in self._stop if (index := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            # The one that is complete first, so that it does not matter in what pieces the bytes came.
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
