"""JSON schemas as grammars: what is generated is valid, though not everything valid can be generated. Pure.

Objects have their properties in the order of the schema, and none besides unless the schema says so.
A keyword that would have to be ignored is refused by its name and place.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

from edged.worker.forms import json_parts as parts
from edged.worker.forms.grammar import Alt, Grammar, Part, Ref, Repeat, Seq, alt
from edged.worker.forms.pattern import PatternError, text_like
from edged.worker.forms.schema_keywords import ANNOTATIONS, COMBINING, check_known, types
from edged.worker.forms.schema_merge import Merger, listed
from edged.worker.forms.schema_values import (
    SchemaError,
    bounds,
    constants,
    fixed,
    number,
    other_key,
    refuse,
    string,
)

MAX_DEPTH = 64
MAX_PLACES = 4000  # schemas inside the schema


class SchemaReader:
    """Reads one schema document; ``rules`` are those that its parts refer to. ``prefix`` is for their names.

    With ``lenient``, of a schema that is not supported only the types are enforced.
    """

    def __init__(self, document: Any, prefix: str = "", *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._document = document
        self._prefix = prefix
        self._places = 0
        self._merger = Merger(self.resolve)
        self.rules: dict[str, Part] = dict(parts.VALUES)

    def part(self, schema: Any, place: str, depth: int = 0, within: frozenset[str] = frozenset()) -> Part:
        """The values ``schema`` allows. ``within`` are the references followed since the last character."""
        try:
            return self._part(schema, place, depth, within)
        except SchemaError:
            if not self._lenient:
                raise
            return _plain(schema)

    def _part(self, schema: Any, place: str, depth: int, within: frozenset[str]) -> Part:
        self._places += 1
        if depth > MAX_DEPTH or self._places > MAX_PLACES:
            raise SchemaError(f"{place}: the schema is too large or too deep")
        if schema is True or schema == {}:
            return parts.VALUE
        if not isinstance(schema, dict):
            refuse(place, "nothing is allowed" if schema is False else "must be a schema")
        check_known(schema, place)
        combining = schema.keys() & COMBINING
        if len(combining) == 1 and not schema.keys() - ANNOTATIONS - combining:
            (keyword,) = combining
            read = {"$ref": self._reference, "allOf": self._all, "anyOf": self._any, "oneOf": self._one}
            return read[keyword](schema[keyword], f"{place}.{keyword}", depth, within)
        if combining:
            return self._merged(schema, place, depth, within)
        if "const" in schema or "enum" in schema:
            kinds = types(schema, place) if "type" in schema else None
            return constants(schema, kinds, ANNOTATIONS, place)
        options = [self._typed(kind, schema, place, depth) for kind in types(schema, place)]
        return alt(*options)

    def _typed(self, kind: str, schema: dict[str, Any], place: str, depth: int) -> Part:
        if kind == "object":
            return self._object(schema, place, depth)
        if kind == "array":
            return self._array(schema, place, depth)
        if kind == "string":
            return string(schema, place)
        if kind in {"integer", "number"}:
            return number(schema, place, whole=kind == "integer")
        return parts.BOOLEAN if kind == "boolean" else parts.NULL

    # --- schemas made of schemas --------------------------------------------------------------

    def _reference(self, pointer: Any, place: str, depth: int, within: frozenset[str]) -> Part:
        target = self.resolve(pointer, place)
        if pointer in within:
            refuse(place, f"{pointer} refers to itself before any character")
        name = f"{self._prefix}ref {pointer}"
        if name not in self.rules:
            self.rules[name] = ""  # for references inside to this one
            self.rules[name] = self.part(target, pointer, depth + 1, within | {pointer})
        return Ref(name)

    def _any(self, schemas: Any, place: str, depth: int, within: frozenset[str]) -> Part:
        return alt(*(self.part(one, at, depth + 1, within) for one, at in listed(schemas, place)))

    def _one(self, schemas: Any, place: str, depth: int, within: frozenset[str]) -> Part:
        targets = [self._target(one, place) for one, _ in listed(schemas, place)]
        pairs = () if _are_other_texts(targets) else itertools.combinations(targets, 2)
        for first, second in pairs:
            if not self._apart(first, second, place):
                why = "the schemas must differ in their types or in a constant property; anyOf need not"
                refuse(place, why)
        return self._any(schemas, place, depth, within)

    def _all(self, schemas: Any, place: str, depth: int, within: frozenset[str]) -> Part:
        found = list(listed(schemas, place))
        if len(found) > 1:
            return self._merged({"allOf": schemas}, place.removesuffix(".allOf"), depth, within)
        return self.part(*found[0], depth + 1, within)

    def _merged(self, schema: dict[str, Any], place: str, depth: int, within: frozenset[str]) -> Part:
        merged, followed = self._merger.merged(schema, place, within)
        return self.part(merged, place, depth + 1, followed)

    def resolve(self, pointer: Any, place: str) -> Any:
        """The schema a reference means. Raises SchemaError."""
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            refuse(place, "only references into the same schema (#/...) are supported")
        found = self._document
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and _is_index(key, len(found)):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                refuse(place, f"{pointer} does not exist")
        return found

    def _apart(self, first: Any, second: Any, place: str) -> bool:
        """Whether no value fits both schemas, as far as that can be seen at a glance."""
        one, other = self._target(first, place), self._target(second, place)
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return False
        values = fixed(one), fixed(other)
        if values[0] is not None and values[1] is not None:
            return not any(value in values[1] for value in values[0])
        kinds = [
            {"number" if kind == "integer" else kind for kind in types(this, place)} for this in (one, other)
        ]
        if not kinds[0] & kinds[1]:
            return True
        shared = [
            name
            for name in _names(one.get("required"))
            if name in _names(other.get("required"))
            and all(isinstance(this.get("properties"), dict) for this in (one, other))
        ]
        return kinds[0] | kinds[1] == {"object"} and any(
            self._apart(one["properties"].get(name), other["properties"].get(name), place)
            and all(fixed(self._target(this["properties"].get(name), place)) for this in (one, other))
            for name in shared
        )

    def _target(self, schema: Any, place: str) -> Any:
        if isinstance(schema, dict) and schema.keys() & {"$ref", "allOf"}:
            return self._merger.merged(schema, place, frozenset())[0]
        return schema

    # --- objects and lists --------------------------------------------------------------------

    def _object(self, schema: dict[str, Any], place: str, depth: int) -> Part:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            refuse(f"{place}.properties", "must be an object of schemas")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            refuse(f"{place}.required", "must be a list of names")
        likes = _likes(schema, place)
        extra = schema.get("additionalProperties", not properties and not likes)
        if likes and extra is not False:
            refuse(f"{place}.patternProperties", "needs additionalProperties to be false")
        others = {name: _fitting(likes, name, extra) for name in required if name not in properties}
        if missing := [name for name, one in others.items() if one is False]:
            refuse(f"{place}.required", f"{missing[0]!r} is no property and no other is allowed")
        if twice := [name for name in properties if _fitting(likes, name, None) is not None]:
            refuse(f"{place}.patternProperties", f"{twice[0]!r} is in properties, too; it is not supported")
        known = properties | others
        members = [
            (
                name in required,
                parts.member(parts.literal(name), self.part(one, f"{place}.properties.{name}", depth + 1)),
            )
            for name, one in known.items()
        ]
        for pattern, key, one in likes:
            value = self.part(one, f"{place}.patternProperties.{pattern}", depth + 1)
            return parts.members(members, parts.member(Seq(('"', key, '"')), value))
        if extra is False:
            return parts.members(members)
        value = self.part(extra, f"{place}.additionalProperties", depth + 1)
        return parts.members(members, parts.member(other_key(known), value))

    def _array(self, schema: dict[str, Any], place: str, depth: int) -> Part:
        if schema.get("uniqueItems"):
            refuse(f"{place}.uniqueItems", "this keyword is not supported")
        least, most = bounds(schema, "minItems", "maxItems", place)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list) or isinstance(schema.get("items"), list):
            refuse(f"{place}.items", "a list of schemas belongs into prefixItems")
        rest = schema.get("items", True)
        if not first:
            if rest is False:
                most = 0
            item = parts.VALUE if rest is False else self.part(rest, f"{place}.items", depth + 1)
            return parts.array(item, least, most)
        heads = [self.part(one, f"{place}.prefixItems[{n}]", depth + 1) for n, one in enumerate(first)]
        if rest is False:
            most = len(heads) if most is None else min(most, len(heads))
        if most is not None and least > most:
            refuse(f"{place}.minItems", "is above what the list may have")
        tail = parts.VALUE if rest is False else self.part(rest, f"{place}.items", depth + 1)
        return _tuple(heads, tail, least, most)


_Like: TypeAlias = "tuple[str, Part, Any]"  # a pattern, the keys that match it as JSON writes them, a schema


def _likes(schema: dict[str, Any], place: str) -> list[_Like]:
    """What keys that match a pattern may have; at most one, since a key could match several."""
    found = schema.get("patternProperties", {})
    if not isinstance(found, dict) or len(found) > 1:
        refuse(f"{place}.patternProperties", "must be one pattern with its schema; more are not supported")
    try:
        return [(pattern, text_like(pattern), one) for pattern, one in found.items()]
    except PatternError as error:
        refuse(f"{place}.patternProperties", str(error))


def _fitting(likes: list[_Like], name: str, extra: Any) -> Any:
    """The schema of properties like ``name``; ``extra`` when it matches no pattern."""
    for _, key, one in likes:
        grammar = Grammar(key)
        state = grammar.follow(grammar.start, parts.literal(name)[1:-1])
        if state is not None and state.complete:
            return one
    return extra


def _plain(schema: Any) -> Part:
    """The values of the types that a schema names."""
    plain: dict[str, Part] = {
        "object": parts.OBJECT,
        "array": parts.ARRAY,
        "string": parts.STRING,
        "number": parts.NUMBER,
        "integer": parts.INTEGER,
        "boolean": parts.BOOLEAN,
        "null": parts.NULL,
    }
    kinds = schema.get("type") if isinstance(schema, dict) else None
    listed = kinds if isinstance(kinds, list) else [kinds]
    found = [plain[kind] for kind in listed if isinstance(kind, str) and kind in plain]
    return alt(*found) if found else parts.VALUE


def _tuple(heads: list[Part], tail: Part, least: int, most: int | None) -> Part:
    """A list whose first items have schemas of their own."""
    count = len(heads)
    after: Part = ""
    if most is None or most > count:
        more = Seq((",", parts.BLANK, tail))
        after = Repeat(more, max(0, least - count), None if most is None else most - count)
    for index in range(min(count, count if most is None else most) - 1, -1, -1):
        begin: tuple[Part, ...] = (
            (heads[index], after) if index == 0 else (",", parts.BLANK, heads[index], after)
        )
        after = Seq(begin) if index < least else Alt((Seq(begin), ""))
    return Seq(("[", parts.BLANK, after, parts.BLANK, "]"))


def _are_other_texts(schemas: list[Any]) -> bool:
    """Whether each names its values, all texts, and no two the same; hundreds of options are usually that."""
    values = [fixed(schema) or [None] for schema in schemas]
    if not all(isinstance(value, str) for named in values for value in named):
        return False
    named = [set(one) for one in values]
    return len(set().union(*named)) == sum(map(len, named))


def _is_index(key: str, length: int) -> bool:
    """Whether ``key`` is a place in a list; Python reads no number of thousands of digits."""
    return key.isdecimal() and len(key) <= len(str(length)) and int(key) < length


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
