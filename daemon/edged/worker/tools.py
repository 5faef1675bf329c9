"""Finds tool calls in what a model says, in the two forms that small models use, while it says it.

Hermes form::

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Turin"}}
    </tool_call>

Form of Qwen3-Coder and Qwen3.5, whose values are bare text, typed by the tool's schema::

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Turin
    </parameter>
    </function>
    </tool_call>
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from edged.api.requests import Tool, ToolCall
from edged.worker.refused import Refused
from edged.worker.text import overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CALL, END_CALL = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
_BEGINNINGS = ("{", "[", FUNCTION)  # of what stands between the tags of a call
_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*)</function>\s*", re.DOTALL)
# A value ends where another one or the end of the function follows, so that it may hold the tag as text.
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>(.*?)</parameter>(?=\s*(?:<parameter=|$))", re.DOTALL)
_TYPE_NAMES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("boolean", bool),  # before integer, which it is to Python
    ("integer", int),
    ("number", (int, float)),
    ("string", str),
    ("array", list),
    ("object", dict),
    ("null", type(None)),
)
_Found: TypeAlias = tuple[str, dict[str, Any]]  # name and arguments
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class ToolError(Refused):
    """A tool is not described as it must be; the text names it."""


def parameters(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments; raises ToolError."""
    try:
        schema = json.loads(tool.parameters or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolError(f"tools: the parameters of {tool.name} are not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ToolError(f"tools: the parameters of {tool.name} must be a JSON schema of type object")
    return schema


class ToolCalls:
    """Feed text, take text that belongs to no call and calls that are complete.

    A call comes whole, once it can be read and names one of ``tools``; whatever turns out to be no such
    call is text. Blanks around calls are dropped. ``new_id`` gives each call its id.
    """

    def __init__(self, tools: Sequence[Tool], new_id: Callable[[], str]) -> None:
        self._schemas = {tool.name: parameters(tool) for tool in tools}
        self._new_id = new_id
        self._searched = 0  # of ``held`` when it is a call: no closing tag is before, or one inside a value
        self._called = False
        self.held = ""  # blanks and the beginning of a call, or what may become that

    def push(self, text: str) -> list[str | ToolCall]:
        """Text and calls in their order."""
        self.held += text
        said: list[str | ToolCall] = []
        while True:
            if not self._searched and not self._open(said):
                break
            if not self._close(said):
                break
        return said

    def finish(self) -> list[str | ToolCall]:
        """What was held back at the end of the answer; some models leave the last closing tag out."""
        rest, self.held = self.held, ""
        calls = self._read(rest) if self._searched else None
        self._searched = 0
        if calls:
            return list(calls)
        return [] if self._called and not rest.strip() else [rest]

    def _open(self, said: list[str | ToolCall]) -> bool:
        """Give out the text before the next call; whether one begins."""
        index = self.held.find(CALL)
        end = index if index >= 0 else len(self.held) - overlap(self.held, CALL)
        text = self.held[:end].rstrip()
        said.append(text)
        self.held = self.held[len(text) :]
        if index >= 0:
            self._searched = index - len(text) + len(CALL)
        return index >= 0

    def _close(self, said: list[str | ToolCall]) -> bool:
        """Read the call that is held; whether it is over, as a call or as mere text."""
        start = self.held.index(CALL) + len(CALL)
        body = self.held[start:].lstrip()
        if not any(body.startswith(word) or word.startswith(body) for word in _BEGINNINGS):
            return self._give_up(said, start)
        while (index := self.held.find(END_CALL, self._searched)) >= 0:
            self._searched = index + len(END_CALL)
            found = self._read(self.held[: self._searched])
            if found:
                said += found
                self.held = self.held[self._searched :]
                self._searched = 0
                self._called = True
                return True
            if found is not None:
                return self._give_up(said, self._searched)
        self._searched = max(self._searched, len(self.held) - len(END_CALL) + 1)
        return False

    def _give_up(self, said: list[str | ToolCall], end: int) -> bool:
        said.append(self.held[:end])
        self.held = self.held[end:]
        self._searched = 0
        return True

    def _read(self, text: str) -> list[ToolCall] | None:
        """The calls in one held stretch of text; empty when it is none, None when more may make it one."""
        body = text.strip().removeprefix(CALL).removesuffix(END_CALL).strip()
        try:
            found = self._read_function(body) if body.startswith(FUNCTION) else _read_objects(body)
        except json.JSONDecodeError as error:
            return None if error.msg.startswith("Unterminated string") else []
        except (ValueError, RecursionError):
            return []
        if found is None:
            return None
        if any(name not in self._schemas for name, _ in found):
            return []
        return [
            ToolCall(id=self._new_id(), name=name, arguments=json.dumps(arguments, ensure_ascii=False))
            for name, arguments in found
        ]

    def _read_function(self, body: str) -> list[_Found] | None:
        function = _FUNCTION.fullmatch(body)
        if function is None:
            return None
        name, inside = function[1], function[2].rstrip()
        properties = self._schemas.get(name, {}).get("properties")
        arguments: dict[str, Any] = {}
        position = 0
        while position < len(inside):
            parameter = _PARAMETER.match(inside, position)
            if parameter is None:
                return None
            key = parameter[1].strip()
            schema = properties.get(key) if isinstance(properties, dict) else None
            value = parameter[2].removeprefix("\n").removesuffix("\n")
            arguments[key] = typed(value, allowed_types(schema))
            position = parameter.end()
        return [(name, arguments)]


def typed(text: str, allowed: frozenset[str]) -> Any:
    """The value that ``text`` stands for, as one of the ``allowed`` JSON types; text where it is none."""
    if allowed == {"string"}:
        return text
    try:
        value = _json(_PYTHON_WORDS.get(text.strip(), text))
    except (ValueError, RecursionError):
        return text
    kind = _type_name(value)
    fits = kind in allowed or (kind == "integer" and "number" in allowed)
    return value if fits and kind != "string" else text


def allowed_types(schema: object) -> frozenset[str]:
    """The JSON types a schema lets through, as far as can be seen without following references."""
    every = frozenset(name for name, _ in _TYPE_NAMES)
    if not isinstance(schema, dict):
        return every
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset([kind])
    if isinstance(kind, list):
        return frozenset(item for item in kind if isinstance(item, str))
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        return frozenset().union(*map(allowed_types, options))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return frozenset(map(_type_name, values)) if isinstance(values, list) else every


def _type_name(value: object) -> str:
    return next(name for name, kind in _TYPE_NAMES if isinstance(value, kind))


def _read_objects(body: str) -> list[_Found]:
    """Raises ValueError when ``body`` is not one call as a JSON object, or a list of them."""
    value = _json(body)
    found: list[_Found] = []
    for item in value if isinstance(value, list) else [value]:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise ValueError("no object with a name")  # noqa: TRY004 - what was read is wrong
        arguments = item.get("arguments", item.get("parameters", {}))
        if isinstance(arguments, str):  # some models write JSON in JSON
            arguments = _json(arguments)
        if not isinstance(arguments, dict):
            raise ValueError("no arguments")  # noqa: TRY004 - what was read is wrong
        found.append((name, arguments))
    return found


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    """NaN and the infinities are no JSON."""
    raise ValueError(name)
