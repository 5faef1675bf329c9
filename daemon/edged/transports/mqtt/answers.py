"""Remembers answers by request, so that a repeated request is answered without computing it again (pure)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from edged.api.events import Failed, Finished

if TYPE_CHECKING:
    from edged.api.events import Terminal

Key: TypeAlias = tuple[str, str, str]  # client, op, id
_NUMBER_BYTES = 32  # a float and the place that refers to it
_CALL_LETTERS = 64  # the object and its id, in letters
_TOKEN_LETTERS = 64  # an object, some bytes and a number, in letters
_ENTRY_BYTES = 1024  # room for the key, the numbers and the objects around the text


class Answers:
    """The last answers, bounded in number and in bytes; the least recently used goes first.

    An answer is found again only for the same payload: a device that counts its ids from zero after
    each boot must not be given last week's answer. Refusals and failures are not remembered, so that
    the same id can be tried again, except a cancellation: that is what its client wanted to hear.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, tuple[bytes, Terminal]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, digest: bytes) -> Terminal | None:
        entry = self._entries.get(key)
        if entry is None or entry[0] != digest:
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def remember(self, key: Key, digest: bytes, terminal: Terminal) -> None:
        self._forget(key)
        if isinstance(terminal, Failed) and terminal.code != "cancelled":
            return
        size = _size(terminal)
        if not self._max_count or size > self._max_bytes:
            return
        self._entries[key] = (digest, terminal)
        self.size_bytes += size
        while len(self._entries) > self._max_count or self.size_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= _size(entry[1])


def _size(terminal: Terminal) -> int:
    # Four bytes are the most a character can take in memory; what counts is that the bound holds.
    if not isinstance(terminal, Finished):
        return _ENTRY_BYTES
    numbers = sum(map(len, terminal.embeddings)) + 4 * len(terminal.scores)
    letters = len(terminal.text) + len(terminal.reasoning)
    letters += sum(len(score.choice) for score in terminal.scores)
    letters += sum(len(call.name) + len(call.arguments) + _CALL_LETTERS for call in terminal.tool_calls)
    letters += sum(_TOKEN_LETTERS * (1 + len(one.top)) for one in terminal.logprobs or ())
    return _ENTRY_BYTES + 4 * letters + _NUMBER_BYTES * numbers
