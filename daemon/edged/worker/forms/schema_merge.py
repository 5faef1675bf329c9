"""Makes one JSON schema of several that all hold. Pure."""

from __future__ import annotations

import json
import math
from functools import reduce
from typing import TYPE_CHECKING, Any

from edged.worker.forms.schema_keywords import ANNOTATIONS, OBJECT, check_known, types
from edged.worker.forms.schema_values import MAX_ENUM, fixed, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_LARGER_COUNTS = frozenset(["minimum", "exclusiveMinimum", "minLength", "minItems"])
_SMALLER_COUNTS = frozenset(["maximum", "exclusiveMaximum", "maxLength", "maxItems"])
_OPTIONS = ("anyOf", "oneOf")
MAX_STEP = 10**20  # far beyond what can be enforced; Python writes no number of thousands of digits


class Merger:
    """``resolve`` finds what a reference means, or raises SchemaError."""

    def __init__(self, resolve: Callable[[Any, str], Any]) -> None:
        self._resolve = resolve

    def merged(self, schema: Any, place: str, within: frozenset[str]) -> tuple[Any, frozenset[str]]:
        """``schema`` without references and allOf, and with options (anyOf, oneOf) only by themselves.

        The second is ``within``, the references followed so far, and those that were followed here. Raises
        SchemaError.
        """
        followed = set(within)
        found = list(self._apart(schema, place, within, followed))
        for number, one in enumerate(found):
            for keyword in _OPTIONS:
                if keyword in one:
                    rest = {name: value for name, value in one.items() if name != keyword}
                    others = [other for other in (*found[:number], rest, *found[number + 1 :]) if other]
                    return {keyword: _with_each(one[keyword], others)}, frozenset(followed)
        nothing: dict[str, Any] = {}
        return reduce(lambda one, other: _both(one, other, place), found, nothing), frozenset(followed)

    def _apart(
        self, schema: Any, place: str, within: frozenset[str], followed: set[str]
    ) -> Iterator[dict[str, Any]]:
        """Schemas without references and allOf that say together what ``schema`` does."""
        if schema is True:
            return
        if not isinstance(schema, dict):
            refuse(place, "nothing is allowed" if schema is False else "must be a schema")
        check_known(schema, place)
        if "$ref" in schema:
            pointer = schema["$ref"]
            target = self._resolve(pointer, f"{place}.$ref")
            if pointer in within:
                refuse(place, f"{pointer} refers to itself before any character")
            followed.add(pointer)
            yield from self._apart(target, pointer, within | {pointer}, followed)
        if "allOf" in schema:
            for one, at in listed(schema["allOf"], f"{place}.allOf"):
                yield from self._apart(one, at, within, followed)
        own = {key: value for key, value in schema.items() if key not in ANNOTATIONS | {"$ref", "allOf"}}
        if own:
            yield own


def listed(schemas: Any, place: str) -> Iterator[tuple[Any, str]]:
    """Each of a list of schemas with its place. Raises SchemaError."""
    if not isinstance(schemas, list) or not schemas:
        refuse(place, "must be a list of schemas")
    if len(schemas) > MAX_ENUM:
        refuse(place, f"must be at most {MAX_ENUM} schemas")
    return ((one, f"{place}[{index}]") for index, one in enumerate(schemas))


def _with_each(options: Any, others: list[dict[str, Any]]) -> Any:
    return [{"allOf": [*others, one]} for one in options] if others and isinstance(options, list) else options


def _both(one: dict[str, Any], other: dict[str, Any], place: str) -> dict[str, Any]:
    merged = one | other
    if one.keys() & OBJECT and other.keys() & OBJECT:
        merged |= _objects(one, other, place)
    values = fixed(one), fixed(other)
    if values[0] is not None and values[1] is not None:
        written = set(map(json.dumps, values[1]))
        merged.pop("const", None)
        merged["enum"] = [value for value in values[0] if json.dumps(value) in written]
    items = {"items", "prefixItems"}
    if "prefixItems" in merged and items & one.keys() and items & other.keys():
        refuse(f"{place}.prefixItems", "is not supported beside another schema of the items")
    for keyword in one.keys() & other.keys() - OBJECT - {"const", "enum"}:
        merged[keyword] = _value(keyword, one, other, place)
    return merged


def _value(keyword: str, one: dict[str, Any], other: dict[str, Any], place: str) -> Any:
    first, second = one[keyword], other[keyword]
    if keyword == "type":
        return _types(types(one, place), types(other, place), place)
    if keyword == "items":
        return _all([first, second])
    if first == second:
        return first
    if keyword == "uniqueItems":
        return first or second
    if keyword in _LARGER_COUNTS | _SMALLER_COUNTS and _are(first, second, (int, float)):
        return max(first, second) if keyword in _LARGER_COUNTS else min(first, second)
    if keyword != "multipleOf" or not _are(first, second, int) or max(first, second) > MAX_STEP:
        refuse(f"{place}.{keyword}", f"{first!r} and {second!r} at once is not supported")
    return math.lcm(first, second)


def _are(first: Any, second: Any, kind: Any) -> bool:
    return all(isinstance(value, kind) and not isinstance(value, bool) for value in (first, second))


def _types(first: Iterable[str], second: Iterable[str], place: str) -> list[str]:
    sides = set(first), set(second)
    shared = sides[0] & sides[1]
    if "integer" in sides[0] | sides[1] and all({"integer", "number"} & side for side in sides):
        shared.add("integer")  # every integer is a number
    if not shared:
        refuse(f"{place}.type", "no value is of all these types")
    return sorted(shared)


def _objects(one: dict[str, Any], other: dict[str, Any], place: str) -> dict[str, Any]:
    """The keywords of objects that say what both schemas do."""
    sides = (one, other)
    if any("patternProperties" in side for side in sides):
        refuse(f"{place}.patternProperties", "is not supported beside another schema of the object")
    properties = [side.get("properties", {}) for side in sides]
    required = [side.get("required", []) for side in sides]
    if not all(isinstance(found, dict) for found in properties):
        refuse(f"{place}.properties", "must be an object of schemas")
    if not all(isinstance(found, list) for found in required):
        refuse(f"{place}.required", "must be a list of names")
    extra = [side.get("additionalProperties", True) for side in sides]
    names = dict.fromkeys((*properties[0], *properties[1]))
    found = {
        name: _all([own.get(name, besides) for own, besides in zip(properties, extra, strict=True)])
        for name in names
    }
    merged: dict[str, Any] = {
        "properties": {name: schema for name, schema in found.items() if schema is not False},
        "required": required[0] + [name for name in required[1] if name not in required[0]],
    }
    if any("additionalProperties" in side for side in sides):
        merged["additionalProperties"] = _all(extra)
    return merged


def _all(schemas: list[Any]) -> Any:
    """One schema for all of ``schemas``; False when one allows nothing."""
    bounding = [schema for schema in schemas if schema is not True]
    if any(schema is False for schema in bounding):
        return False
    return bounding[0] if len(bounding) == 1 else {"allOf": bounding} if bounding else True
