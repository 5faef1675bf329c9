"""Reads a stretch of text that a model wrote as tool calls, once all of it is there. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from edged.worker.tools import CALL, END_CALL, FUNCTION, json_value, value_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Found: TypeAlias = tuple[str, dict[str, Any]]  # name and arguments
_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*)</function>\s*", re.DOTALL)
# A value ends where another one or the end of the function follows, so that it may hold the tag as text.
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>(.*?)</parameter>(?=\s*(?:<parameter=|$))", re.DOTALL)


def read_calls(text: str, schemas: Mapping[str, dict[str, Any]]) -> list[Found] | None:
    """The calls of functions in ``schemas`` that ``text`` is, with their tags or without.

    Empty when it is none, None when more text may make it one.
    """
    body = text.strip().removeprefix(CALL).removesuffix(END_CALL).strip()
    try:
        found = _read_function(body, schemas) if body.startswith(FUNCTION) else _read_objects(body)
    except json.JSONDecodeError as error:
        return None if error.msg.startswith("Unterminated string") else []
    except (ValueError, RecursionError):
        return []
    if found is None:
        return None
    return found if all(name in schemas for name, _ in found) else []


def _read_function(body: str, schemas: Mapping[str, dict[str, Any]]) -> list[Found] | None:
    function = _FUNCTION.fullmatch(body)
    if function is None:
        return None
    name, inside = function[1], function[2].rstrip()
    arguments: dict[str, Any] = {}
    position = 0
    while position < len(inside):
        parameter = _PARAMETER.match(inside, position)
        if parameter is None:
            return None
        key = parameter[1].strip()
        arguments[key] = value_of(parameter[2], schemas.get(name, {}), key)
        position = parameter.end()
    return [(name, arguments)]


def _read_objects(body: str) -> list[Found]:
    """Raises ValueError when ``body`` is not one call as a JSON object, or a list of them."""
    value = json_value(body)
    found: list[Found] = []
    for item in value if isinstance(value, list) else [value]:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise ValueError("no object with a name")  # noqa: TRY004 - what was read is wrong
        arguments = item.get("arguments", item.get("parameters", {}))
        if isinstance(arguments, str):  # some models write JSON in JSON
            arguments = json_value(arguments)
        if not isinstance(arguments, dict):
            raise ValueError("no arguments")  # noqa: TRY004 - what was read is wrong
        found.append((name, arguments))
    return found
