"""Finds tool calls in what a model says, and tells them while it says them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from edged.api.events import CallPiece
from edged.worker.call_arguments import arguments_in
from edged.worker.text import overlap
from edged.worker.tools import CALL, END_CALL, FUNCTION, parameters
from edged.worker.whole_calls import read_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.requests import Tool
    from edged.worker.call_arguments import Arguments
    from edged.worker.forms.calls import CallForm

_BEGINNINGS = ("{", "[", FUNCTION)  # of what stands between the tags of a call
_NAMED: dict[CallForm, re.Pattern[str]] = {
    "hermes": re.compile(CALL + r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"'),
    "functions": re.compile(CALL + r"\s*" + FUNCTION + r"([^<>\s]+)>"),
}


class ToolCalls:
    """Feed text, take text that belongs to no call and pieces of calls.

    When the name of one of ``tools`` has been read, ``certain`` is asked whether what follows it is bound to
    be the rest of a call. Then name and arguments are told as they come; otherwise the call comes in one
    piece, once it can be read. What turns out to be no call is text. Blanks around calls are dropped.
    ``new_id`` gives each call its id. Unless ``several`` are wanted, nothing is told behind the first.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        new_id: Callable[[], str],
        certain: Callable[[CallForm, str], bool],
        *,
        several: bool = True,
    ) -> None:
        self._schemas = {tool.name: parameters(tool) for tool in tools}
        self._new_id = new_id
        self._certain = certain
        self._several = several
        self._held = ""  # blanks and the beginning of a call, or what may become that
        self._searched = 0  # of what is held when it is a call: no closing tag is before, or one in a value
        self._named = False  # the name in what is held has been read
        self._arguments: Arguments | None = None  # of the call that is being told
        self.count = 0  # calls told, the last one perhaps not to its end
        self.over = False  # the one call that is wanted has been told

    @property
    def telling(self) -> bool:
        """A call has been begun and not ended."""
        return self._arguments is not None

    @property
    def holding(self) -> bool:
        """Some text was pushed and not told."""
        return bool(self._arguments.held if self._arguments is not None else self._held)

    def push(self, text: str) -> list[str | CallPiece]:
        """Text and pieces of calls in their order."""
        self._held += text
        said: list[str | CallPiece] = []
        while not self.over and self._go_on(said):
            pass
        return said

    def finish(self) -> list[str | CallPiece]:
        """What was held back at the end of the answer; some models leave the last closing tag out."""
        rest, self._held = self._held, ""
        said: list[str | CallPiece] = []
        if self.over or self.telling or (self._searched and self._whole(rest, said)):
            return said
        self._searched = 0
        return [] if self.count and not rest.strip() else [rest]

    def _go_on(self, said: list[str | CallPiece]) -> bool:
        """Make one thing of what is held; whether there may be another."""
        if self._arguments is not None:
            return self._tell(self._arguments, said)
        if not self._searched:
            return self._open(said)
        return self._begin(said) or self._close(said)

    def _open(self, said: list[str | CallPiece]) -> bool:
        """Give out the text before the next call."""
        index = self._held.find(CALL)
        end = index if index >= 0 else len(self._held) - overlap(self._held, CALL)
        text = self._held[:end].rstrip()
        said.append(text)
        self._held = self._held[len(text) :]
        if index >= 0:
            self._searched = index - len(text) + len(CALL)
            self._named = False
        return index >= 0

    def _begin(self, said: list[str | CallPiece]) -> bool:
        """Tell that a function is called, once its name is there and it is certain."""
        if self._named:
            return False
        start = self._held.index(CALL)
        for form, pattern in _NAMED.items():
            named = pattern.match(self._held, start)
            if named is None:
                continue
            self._named = True
            rest = self._held[named.end() :]
            if named[1] not in self._schemas or not self._certain(form, rest):
                continue
            said.append(CallPiece(index=self.count, id=self._new_id(), name=named[1]))
            self.count += 1
            self._arguments = arguments_in(form, self._schemas[named[1]])
            self._held = rest
        return self.telling

    def _tell(self, arguments: Arguments, said: list[str | CallPiece]) -> bool:
        text = arguments.push(self._held)
        if text:
            said.append(CallPiece(index=self.count - 1, arguments=text))
        self._held = arguments.held if arguments.over else ""
        if arguments.over:
            self._arguments = None
            self._ended()
        return arguments.over

    def _close(self, said: list[str | CallPiece]) -> bool:
        """Read the call that is held, if it is complete, or find that it is mere text."""
        start = self._held.index(CALL) + len(CALL)
        body = self._held[start:].lstrip()
        if not any(body.startswith(word) or word.startswith(body) for word in _BEGINNINGS):
            return self._give_up(said, start)
        while (index := self._held.find(END_CALL, self._searched)) >= 0:
            self._searched = index + len(END_CALL)
            found = self._whole(self._held[: self._searched], said)
            if found:
                self._held = self._held[self._searched :]
                self._ended()
                return True
            if found is not None:
                return self._give_up(said, self._searched)
        self._searched = max(self._searched, len(self._held) - len(END_CALL) + 1)
        return False

    def _whole(self, text: str, said: list[str | CallPiece]) -> bool | None:
        """Tell the calls that ``text`` is; False when it is none, None when more may make it one."""
        found = read_calls(text, self._schemas)
        for name, arguments in (found or ())[: None if self._several else 1]:
            written = json.dumps(arguments, ensure_ascii=False)
            said.append(CallPiece(index=self.count, id=self._new_id(), name=name, arguments=written))
            self.count += 1
        return None if found is None else bool(found)

    def _ended(self) -> None:
        """A call was told to its end."""
        self._searched = 0
        if not self._several:
            self.over = True
            self._held = ""

    def _give_up(self, said: list[str | CallPiece], end: int) -> bool:
        said.append(self._held[:end])
        self._held = self._held[end:]
        self._searched = 0
        return True
