"""Server-sent events: bytes in, data of events out. Sans I/O.

Follows the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream"; only ``data`` matters here.
"""

from __future__ import annotations

import codecs

from edgectl.errors import Unhealthy

# One event of edged is one token and its frame; a server that sends a line of this length is something else.
MAX_EVENT_CHARS = 8 << 20


class EventParser:
    """Feed it what arrives, in any portions; it returns the data of the events that are complete."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._data: list[str] = []
        self._chars = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Raises Unhealthy when an event grows beyond what makes sense."""
        text = self._rest + self._decoder.decode(chunk)
        # A CR at the end may be half of a CRLF: it waits for what follows.
        held = "\r" if text.endswith("\r") else ""
        lines = text.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + held
        if self._chars + len(self._rest) > MAX_EVENT_CHARS:
            raise Unhealthy("the server sends an event stream without events")
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> str | None:
        if not line:
            event = "\n".join(self._data) if self._data else None
            self._data, self._chars = [], 0
            return event
        name, _, value = line.partition(":")
        if name == "data":  # an empty name is a comment, which servers send to keep connections open
            self._data.append(value.removeprefix(" "))
            self._chars += len(value)
        return None
