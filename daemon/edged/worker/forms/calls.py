"""Tool calls as grammars, for when the model must make one or has begun to. Pure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edged.worker.forms import json_parts as parts
from edged.worker.forms.grammar import Alt, Chars, Grammar, Part, Ref, Repeat, Seq, alt, optional, without
from edged.worker.forms.schema import SchemaReader
from edged.worker.tools import CALL, END_CALL, END_FUNCTION, END_VALUE, FUNCTION, allowed_types, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edged.api.requests import Tool

CallForm: TypeAlias = Literal["hermes", "functions"]  # see edged.worker.tools
_ANY_CHARACTER = ((0x09, 0x0A), (0x20, 0xD7FF), (0xE000, 0x10FFFF))


def calls_of(tools: Sequence[Tool], form: CallForm, *, several: bool) -> tuple[Part, dict[str, Part]]:
    """One call of one of ``tools``, or with ``several`` any number of them; and the rules it refers to.

    Where a tool's schema cannot be enforced, only its types are. Raises ToolError.
    """
    rules: dict[str, Part] = dict(parts.VALUES) | _text_rules()
    make = _hermes if form == "hermes" else _function
    one = alt(*(Seq((f"{CALL}\n", make(tool, rules), f"\n{END_CALL}")) for tool in tools))
    rules["call"] = one
    more = Repeat(Seq(("\n", Ref("call"))))
    return (Seq((Ref("call"), more)) if several else Ref("call")), rules


@cache
def rest_of_call(form: CallForm) -> Grammar:
    """What may follow the name of the function in a call that is to be told as it comes, then any text."""
    if form == "hermes":
        key = alt('"arguments"', '"parameters"')
        arguments = Seq((",", parts.BLANK, key, ":", optional(" "), parts.OBJECT))
        inside = Seq((optional(arguments), parts.BLANK, "}"))
    else:
        name = Repeat(_except("<", ">", "\n"), 1)
        parameter = Seq((parts.BLANK, "<parameter=", name, ">", Ref("text 0"), END_VALUE))
        inside = Seq((Repeat(parameter), parts.BLANK, END_FUNCTION))
    root = Seq((inside, parts.BLANK, END_CALL, Repeat(Chars(_ANY_CHARACTER))))
    return Grammar(root, parts.VALUES | _text_rules())


def _hermes(tool: Tool, rules: dict[str, Part]) -> Part:
    schema = parameters(tool)
    arguments = _value({"type": "object"} | schema, schema, tool, rules)
    return Seq((f'{{"name": {parts.literal(tool.name)}, "arguments": ', arguments, "}"))


def _function(tool: Tool, rules: dict[str, Part]) -> Part:
    schema = parameters(tool)
    properties = schema.get("properties")
    required = schema.get("required")
    values: list[Part] = []
    for name, one in properties.items() if isinstance(properties, dict) else ():
        if any(char in name for char in "<>\n"):
            continue  # a name that this form cannot carry
        value = _bare_value(one, schema, tool, rules)
        parameter = Seq((f"<parameter={name}>\n", value, f"\n{END_VALUE}\n"))
        needed = isinstance(required, list) and name in required
        values.append(parameter if needed else optional(parameter))
    return Seq((f"{FUNCTION}{tool.name}>\n", *values, END_FUNCTION))


def _bare_value(schema: Any, document: dict[str, Any], tool: Tool, rules: dict[str, Part]) -> Part:
    """A value as it stands between the tags of a parameter."""
    kinds = allowed_types(schema)
    if "string" not in kinds:
        return _value(schema, document, tool, rules)
    values = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(values, list) and values and all(isinstance(value, str) and value for value in values):
        return alt(*values)
    return Ref("text 0")


def _value(schema: Any, document: Any, tool: Tool, rules: dict[str, Part]) -> Part:
    reader = SchemaReader(document, f"{tool.name} ", lenient=True)
    part = reader.part(schema, tool.name)
    rules.update(reader.rules)
    return part


def _text_rules() -> dict[str, Part]:
    """Text without the tag that ends a value: ``text n`` is what may follow the first n characters of it."""
    rules: dict[str, Part] = {}
    for length, char in enumerate(END_VALUE):
        others = _except(char, "<")
        options: list[Part] = ["", Seq((others, Ref("text 0")))]
        if char != "<":
            options.append(Seq(("<", Ref("text 1"))))
        if length + 1 < len(END_VALUE):
            options.append(Seq((char, Ref(f"text {length + 1}"))))
        rules[f"text {length}"] = Alt(tuple(options))
    return rules


def _except(*chars: str) -> Chars:
    return Chars(without(_ANY_CHARACTER, tuple((ord(char), ord(char)) for char in chars)))
