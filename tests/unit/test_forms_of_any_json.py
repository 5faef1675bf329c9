"""Whatever JSON a client sends as a schema or as a tool's parameters, it gets a grammar or is refused."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.requests import Sampling, Tool
from edged.ipc.messages import Start
from edged.worker import constrain
from edged.worker.forms.schema_keywords import BY_TYPE, COMBINING
from edged.worker.refused import Refused

KEYWORDS = sorted(
    {"type", "const", "enum", "additionalProperties", "$defs", *COMBINING}.union(*BY_TYPE.values())
)
VALUES: list = [
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e308, 5e-324, 10**40, 10**309, -(10**4000)),
    *("", "a", "b", "\ud800", "é😀", '"\\', "^a?$", "[^\\d]{2,3}", "(", "date", *BY_TYPE),
    *("#", "#/$defs/a", "#/$defs/b", "#/anyOf/0", "#/anyOf/" + "1" * 4301, "#/properties/a", [], {}, [[1]]),
]
NAMES = st.sampled_from(["a", "b", "", "é", 'a"\\', "<x>"])
leaves = st.sampled_from(VALUES) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(NAMES, inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    ),
    max_leaves=16,
)


def likely(inner: st.SearchStrategy) -> st.SearchStrategy:
    """Schemas that are right in most places, so that what is wrong in one is reached."""
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from([*BY_TYPE, ["object", "null"], ["integer", "string"]]),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b?"]), inner, max_size=1),
            "required": st.lists(NAMES | anything, max_size=2),
            "additionalProperties": inner | st.booleans(),
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "enum": st.lists(anything, max_size=3),
            "const": anything,
            **{keyword: st.lists(inner, max_size=3) for keyword in ("anyOf", "oneOf", "allOf")},
            **dict.fromkeys(sorted(BY_TYPE["number"] | BY_TYPE["string"]), leaves),
            "$ref": leaves,
            "$defs": st.dictionaries(NAMES, inner, max_size=2),
        },
    )


schemas = st.recursive(anything, lambda inner: likely(inner) | anything, max_leaves=6)


def made(schema: object, **fields) -> None:
    """A grammar, and a step into it, or a refusal."""
    text = json.dumps(schema, allow_nan=True)
    for order in (
        Start(key=1, max_tokens=10, sampling=Sampling(), schema=text),
        Start(
            key=1,
            max_tokens=10,
            sampling=Sampling(),
            tools=(Tool(name="t", parameters=text),),
            tool_choice="required",
        ),
    ):
        for form in ("hermes", "functions"):
            with suppress(Refused, RecursionError):  # see _bounded
                grammar = constrain._make(order, form)
                grammar.follow(
                    grammar.start, '<tool_call>\n{"name": "t", "arguments": {"a": {"b": [1, 2.5, "x"]'
                )


@settings(max_examples=400, deadline=None)
@given(schemas)
def test_any_json_as_a_schema_or_as_parameters_makes_a_grammar_or_is_refused(schema):
    made(schema)


TWICE = {"type": "object", "required": [[1]], "properties": {}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": []},
        {"$ref": {}},
        {"$ref": {}, "type": "object"},
        {"type": "integer", "minimum": 10**309},
        {"type": "integer", "exclusiveMaximum": -(10**4299)},
        {"anyOf": [{"$ref": "#/anyOf/" + "1" * 4301}]},
        {"oneOf": [TWICE, TWICE]},
        {"properties": {"a": {"const": float("inf")}}},
        {"type": "object", "properties": {"a": {"enum": ["\ud800", float("nan")]}}},
        {"allOf": [{"multipleOf": 10**4000 + n} for n in range(3)] + [{"multipleOf": 0.5}]},
    ],
    ids=lambda schema: json.dumps(schema)[:30],
)
def test_what_a_client_may_write_by_mistake_or_on_purpose_is_refused_and_no_defect(schema):
    made(schema)
