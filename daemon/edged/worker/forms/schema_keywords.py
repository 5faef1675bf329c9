"""The keywords of JSON schemas that are understood, by what they are about."""

from __future__ import annotations

from typing import Any

from edged.worker.forms.schema_values import refuse

# What describes values and does not bound them.
ANNOTATIONS = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions"),
        *("discriminator", "contentMediaType", "contentEncoding"),
    ]
)
OBJECT = frozenset(["properties", "required", "additionalProperties", "patternProperties"])
NUMBER = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"])
BY_TYPE: dict[str, frozenset[str]] = {
    "object": OBJECT,
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "number": NUMBER,
    "integer": NUMBER,
    "boolean": frozenset(),
    "null": frozenset(),
}
# Schemas that hold beside the one they stand in, or in its place.
COMBINING = frozenset(["$ref", "allOf", "anyOf", "oneOf"])
_KNOWN = ANNOTATIONS | COMBINING | frozenset(["type", "enum", "const"]).union(*BY_TYPE.values())


def check_known(schema: dict[str, Any], place: str) -> None:
    """Raises SchemaError for a keyword that would have to be ignored."""
    for keyword in schema:
        if keyword not in _KNOWN:
            refuse(f"{place}.{keyword}", "this keyword is not supported")


def types(schema: dict[str, Any], place: str) -> tuple[str, ...]:
    """The types of the values that are meant. Raises SchemaError."""
    kinds = schema.get("type")
    if kinds is None:
        # Any type would do; the keywords say which one is meant.
        meant = [kind for kind, keywords in BY_TYPE.items() if kind != "integer" and keywords & set(schema)]
        return tuple(meant) or ("object", "array", "string", "number", "boolean", "null")
    listed = kinds if isinstance(kinds, list) else [kinds]
    if not listed or not all(isinstance(kind, str) and kind in BY_TYPE for kind in listed):
        refuse(f"{place}.type", f"must be of {', '.join(sorted(BY_TYPE))}")
    return tuple(listed)
