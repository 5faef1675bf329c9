"""Tells the arguments of a tool call as JSON while the model writes them.

Both readers get what follows the name of the function, which must be the rest of a call (see
:func:`edged.worker.forms.calls.rest_of_call`). What they tell, joined, is the text of a JSON object.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from edged.worker.tools import END_CALL, END_FUNCTION, END_VALUE, value_of

if TYPE_CHECKING:
    from edged.worker.forms.calls import CallForm

_BRACE = re.compile(r"[{}]")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>")
_END_FUNCTION = re.compile(r"\s*" + END_FUNCTION)


class Arguments(Protocol):
    """``held`` tells nothing yet, or is what stands behind the call once it is ``over``."""

    held: str
    over: bool

    def push(self, text: str) -> str:
        """The JSON text that ``text`` makes certain, possibly empty."""
        ...


def arguments_in(form: CallForm, schema: dict[str, Any]) -> Arguments:
    """A reader for the rest of a call in ``form``; ``schema`` is that of the tool's parameters."""
    return _JsonArguments() if form == "hermes" else _BareArguments(schema)


class _Reader:
    def __init__(self) -> None:
        self.held = ""
        self.over = False
        self._complete = False  # the arguments are; the closing tag is to come

    def push(self, text: str) -> str:
        self.held += text
        told = "" if self._complete else self._read()
        if self._complete and (index := self.held.find(END_CALL)) >= 0:
            self.held = self.held[index + len(END_CALL) :]
            self.over = True
        return told

    def _read(self) -> str:
        raise NotImplementedError


class _JsonArguments(_Reader):
    """They are an object already, told as it is written: ``, "arguments": {"city": "Turin"}}``."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def _read(self) -> str:
        if not self._depth:
            brace = _BRACE.search(self.held)
            if brace is None:
                return ""
            self.held = self.held[brace.start() :]
            if brace[0] == "}":  # of the call itself
                self._complete = True
                return "{}"
        end = self._end()
        told, self.held = self.held[:end], self.held[end:]
        return told

    def _end(self) -> int:
        """How much of what is held belongs to the object."""
        for position, char in enumerate(self.held):
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._quoted = not self._quoted
            elif char in "{}" and not self._quoted:
                self._depth += 1 if char == "{" else -1
                if not self._depth:
                    self._complete = True
                    return position + 1
        return len(self.held)


class _BareArguments(_Reader):
    """They are bare text between tags; each is told when its value is complete."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__()
        self._schema = schema
        self._keys: set[str] = set()

    def _read(self) -> str:
        told = ""
        while not self._complete:
            if end := _END_FUNCTION.match(self.held):
                told += "}" if self._keys else "{}"
                self._complete = True
                self.held = self.held[end.end() :]
                break
            parameter = _PARAMETER.match(self.held)
            index = self.held.find(END_VALUE, parameter.end()) if parameter else -1
            if parameter is None or index < 0:
                break
            told += self._member(parameter[1].strip(), self.held[parameter.end() : index])
            self.held = self.held[index + len(END_VALUE) :]
        return told

    def _member(self, key: str, text: str) -> str:
        if key in self._keys:  # what was told of it cannot be taken back
            return ""
        said = json.dumps({key: value_of(text, self._schema, key)}, ensure_ascii=False)[1:-1]
        before = ", " if self._keys else "{"
        self._keys.add(key)
        return before + said
