"""The words of tool calls, in the two forms that small models use, and the types of their values. Pure.

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
import math
from typing import TYPE_CHECKING, Any, NoReturn

from edged.worker.refused import Refused

if TYPE_CHECKING:
    from edged.api.requests import Tool

CALL, END_CALL = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
END_VALUE = "</parameter>"
_TYPE_NAMES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("boolean", bool),  # before integer, which it is to Python
    ("integer", int),
    ("number", (int, float)),
    ("string", str),
    ("array", list),
    ("object", dict),
    ("null", type(None)),
)
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class ToolError(Refused):
    """A tool is not described as it must be; the text names it."""


def parameters(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments; raises ToolError."""
    try:
        schema = json_value(tool.parameters or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolError(f"tools: the parameters of {tool.name} are not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise ToolError(f"tools: the parameters of {tool.name} must be a JSON schema of type object")
    return schema


def value_of(text: str, schema: dict[str, Any], name: str) -> Any:
    """The value of parameter ``name`` that ``text`` between its tags stands for, by the tool's ``schema``."""
    properties = schema.get("properties")
    one = properties.get(name) if isinstance(properties, dict) else None
    return typed(text.removeprefix("\n").removesuffix("\n"), allowed_types(one))


def typed(text: str, allowed: frozenset[str]) -> Any:
    """The value that ``text`` stands for, as one of the ``allowed`` JSON types; text where it is none."""
    if allowed == {"string"}:
        return text
    try:
        value = json_value(_PYTHON_WORDS.get(text.strip(), text))
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


def json_value(text: str) -> Any:
    """The value that ``text`` is, which can be written as JSON again, in UTF-8.

    Raises ValueError for what is no JSON, numbers beyond those of a double and halves of characters; and
    RecursionError when it is too deep.
    """
    value = json.loads(text, parse_constant=_no_number, parse_float=_number)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number")
