"""Whatever a schema's grammar lets through is JSON and valid; what cannot be enforced is refused by name."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.worker.forms.grammar import Grammar
from edged.worker.forms.number_range import Bound, between
from edged.worker.forms.pattern import PatternError, text_like
from edged.worker.forms.schema_values import SchemaError
from tests.kit.grammar_text import draw, grammar_of, schemas

FORMATS = jsonschema.FormatChecker(["date", "ipv4", "uuid"])


def accepts(grammar: Grammar, text: str) -> bool:
    state = grammar.follow(grammar.start, text)
    return state is not None and state.complete


def judge(schema, text: str) -> None:
    """Raise unless ``text`` is JSON and valid."""
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(text))


@settings(max_examples=200, deadline=None)
@given(schemas, st.integers(0, 2**32))
def test_every_text_of_200_generated_schemas_is_valid(schema, seed):
    jsonschema.Draft202012Validator.check_schema(schema)
    grammar = grammar_of(schema)
    dice = random.Random(seed)
    for _ in range(5):
        text = draw(grammar, dice)
        if text is not None:
            judge(schema, text)


@settings(max_examples=100, deadline=None)
@given(st.lists(schemas, min_size=2, max_size=3), st.integers(0, 2**32))
def test_what_is_written_for_several_schemas_at_once_is_valid_for_each(listed, seed):
    schema = {"allOf": listed[:-1], **listed[-1]}
    try:
        grammar = grammar_of(schema)
    except SchemaError:
        return
    text = draw(grammar, random.Random(seed))
    if text is not None:
        judge(schema, text)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "boss": {"$ref": "#"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "é", "age": 7}',
        '{"name":"x","age":150,"tags":[]}',
        '{\n  "name": "a\\"\\u00e9",\n  "age": 0,\n  "tags": ["a", "b"]\n}',
        '{"name": "x", "age": 7, "boss": {"name": "B", "age": 90}}',
    ],
)
def test_the_ways_models_write_an_object_are_let_through(text):
    judge(PERSON, text)
    assert accepts(grammar_of(PERSON), text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "", "age": 7}',
        '{"name": "x"}',
        '{"name": "x", "age": 151}',
        '{"name": "x", "age": -1}',
        '{"name": "x", "age": 1.5}',
        '{"name": "x", "age": 007}',
        '{"name": "x", "age": 7, "more": 1}',
        '{"name": "x", "age": 7, "tags": ["c"]}',
        '{"name": "x", "age": 7, "tags": ["a", "b", "a"]}',
        '{"name": "x", "age": 7,}',
        '{"name": "x", "age": 7} ',
        '{"name": "x\n", "age": 7}',
        '{"name": "\\ud83d", "age": 7}',
        '{"age": 7, "name": "x", "name": "y"}',
    ],
)
def test_what_is_not_valid_is_not_let_through(text):
    assert not accepts(grammar_of(PERSON), text)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object"}, ['{"any": [1, {}]}', "{}"], ["[]", "1"]),
        ({"additionalProperties": {"type": "integer"}}, ['{"a": 1, "b": 2}'], ['{"a": "1"}']),
        (
            {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
            ['{"ab": null, "a": 1, "abc": 2, "": 3, "b": 4}', '{"b": 4}'],
            ['{"ab": 1}', '{"a": 1, "ab": null}', '{"b": 4, "ab": 1}'],
        ),
        ({"required": ["x"], "type": "object"}, ['{"x": 1, "y": 2}'], ['{"y": 2}', "{}"]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, ["[1]", "[]"], ["[1, 2]", "[2]"]),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        ({"type": ["string", "null"]}, ['"a"', "null"], ["1"]),
        (
            {"enum": ["a", 1, None, [1], {"b": "é"}]},
            ['"a"', "1", "null", "[1]", '{"b": "é"}'],
            ['"b"', "1.0"],
        ),
        ({"enum": ["a", 1], "type": "string"}, ['"a"'], ["1"]),
        ({"const": 'a"\\'}, ['"a\\"\\\\"'], ['"a"']),
        (
            {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
            ["1", '"a"', "null"],
            ["1.5", "true"],
        ),
        (
            {
                "$defs": {
                    "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
                },
                "oneOf": [
                    {"$ref": "#/$defs/cat"},
                    {"type": "object", "properties": {"kind": {"enum": ["dog"]}}, "required": ["kind"]},
                ],
            },
            ['{"kind": "cat"}', '{"kind": "dog"}'],
            ['{"kind": "cow"}', "{}"],
        ),
        (
            {"type": "string", "format": "date"},
            ['"2024-02-28"', '"2023-12-31"'],
            ['"2023-02-30"', '"2023-13-01"'],
        ),
        ({"type": "string", "format": "ipv4"}, ['"10.0.255.1"'], ['"256.1.1.1"', '"01.1.1.1"']),
        ({"type": "string", "format": "made-up"}, ['"anything"'], []),
        ({"type": "integer", "multipleOf": 1}, ["5"], ["5.5"]),
        ({"type": "number", "multipleOf": 1}, ["5", "-2"], ["5.5"]),
        (
            {"type": "integer", "multipleOf": 15},
            ["0", "15", "-30", "105", "999990"],
            ["5", "-0", "100", "015", "1e1"],
        ),
        (
            {"type": "integer", "multipleOf": 5, "minimum": -7, "exclusiveMaximum": 110},
            ["-5", "0", "105"],
            ["-10", "110", "4"],
        ),
        ({"multipleOf": 2.0, "minimum": 1000, "maximum": 1003}, ["1000", "1002"], ["1001", "998", "1004"]),
        (
            {
                "properties": {"n": {"type": "null"}},
                "required": ["n", "x1"],
                "patternProperties": {"^x[0-9]$": {"type": "integer"}},
            },
            ['{"n": null, "x1": 1}', '{"n": null, "x1": 1, "x2": 3}'],
            ['{"n": null}', '{"n": null, "x1": "1"}', '{"n": null, "x1": 1, "y": 2}'],
        ),
        (
            {"patternProperties": {'a"\\\\': {}}, "additionalProperties": False},
            ["{}", '{"xa\\"\\\\": 1}'],
            ['{"a": 1}'],
        ),
        (
            {
                "$defs": {
                    "base": {"type": "object", "properties": {"id": {"minimum": 1}}, "required": ["id"]}
                },
                "allOf": [
                    {"$ref": "#/$defs/base"},
                    {"properties": {"id": {"type": "integer"}, "name": {"type": "string", "minLength": 1}}},
                    {"properties": {"name": {"type": ["string", "null"], "minLength": 2}}},
                ],
                "required": ["name"],
            },
            ['{"id": 1, "name": "ab"}'],
            ['{"id": 1}', '{"id": 0, "name": "ab"}', '{"id": 1.5, "name": "ab"}', '{"id": 1, "name": "a"}'],
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {}, "b": {}}, "additionalProperties": False},
                    {"properties": {"b": {"type": "null"}, "c": {}}},
                ]
            },
            ['{"a": 1, "b": null}'],
            ['{"b": 1}', '{"c": 1}'],
        ),
        (
            {"type": "integer", "minimum": 3, "anyOf": [{"maximum": 5}, {"minimum": 9}], "maximum": 10},
            ["3", "5", "9", "10"],
            ["2", "6", "11"],
        ),
        (
            {
                "$defs": {"step": {"type": "object", "properties": {"text": {"type": "string"}}}},
                "required": ["kind"],
                "oneOf": [
                    {"$ref": "#/$defs/step", "properties": {"kind": {"const": "a"}}},
                    {"$ref": "#/$defs/step", "properties": {"kind": {"const": "b"}}},
                ],
            },
            ['{"text": "x", "kind": "b"}', '{"kind": "a"}'],
            ['{"kind": "c"}', '{"text": "x"}'],
        ),
        ({"allOf": [{"enum": [1, "a", True]}, {"type": ["string", "boolean"]}]}, ['"a"', "true"], ["1"]),
        ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 1]}, {"enum": [1, 2]}]}, ["1"], ["2", "3"]),
        (
            {"allOf": [{"type": "number"}, {"type": "integer", "multipleOf": 4}, {"multipleOf": 6}]},
            ["12"],
            ["4"],
        ),
        (
            {"allOf": [{"maxItems": 3}, {"items": {"type": "null"}}, {"minItems": 1}]},
            ["[null]"],
            ["[]", "[1]"],
        ),
        ({"oneOf": [{"enum": ["a", "b", "b"]}, {"const": "c"}]}, ['"b"', '"c"'], ['"d"']),
        ({"allOf": [{}, True]}, ["1", "{}"], [""]),
        (True, ["1", "{}"], [""]),
    ],
)
def test_keywords_mean_what_they_say(schema, good, bad):
    grammar = grammar_of(schema)
    for text in good:
        judge(schema, text)
        assert accepts(grammar, text), text
    for text in bad:
        assert not accepts(grammar, text), text


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "number", "multipleOf": 0.5}}},
            "properties.a.multipleOf",
        ),
        ({"type": "array", "items": {"not": {}}}, "schema.items.not"),
        ({"type": "array", "uniqueItems": True}, "schema.uniqueItems"),
        ({"multipleOf": 0}, "schema.multipleOf"),
        ({"multipleOf": True}, "schema.multipleOf"),
        ({"multipleOf": 9973}, "schema.multipleOf"),
        ({"patternProperties": {"a": {}, "b": {}}}, "schema.patternProperties"),
        ({"patternProperties": {"a": {}}, "additionalProperties": True}, "schema.patternProperties"),
        ({"patternProperties": {"a": {}}, "properties": {"ab": {}}}, "schema.patternProperties"),
        ({"patternProperties": {"(?=a)": {}}}, "schema.patternProperties"),
        ({"patternProperties": {"a": {"not": {}}}}, "schema.patternProperties.a.not"),
        ({"type": "object", "minProperties": 1}, "schema.minProperties"),
        ({"if": {}, "then": {}}, "schema.if"),
        ({"type": "strin"}, "schema.type"),
        ({"type": []}, "schema.type"),
        ({"type": {}}, "schema.type"),
        ({"type": "string", "minLength": -1}, "schema.minLength"),
        ({"type": "string", "minLength": "1"}, "schema.minLength"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "schema.minLength"),
        ({"type": "string", "maxLength": 10**9}, "schema.maxLength"),
        ({"type": "string", "pattern": "(?=a)b"}, "schema.pattern"),
        ({"type": "string", "pattern": 3}, "schema.pattern"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "schema.pattern"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "no number"),
        ({"type": "integer", "minimum": "1"}, "schema.minimum"),
        ({"type": "integer", "exclusiveMinimum": True}, "schema.exclusiveMinimum"),
        ({"type": "number", "minimum": 1e-300}, "digits"),
        ({"enum": []}, "schema.enum"),
        ({"enum": ["a"], "type": "integer"}, "schema.enum"),
        ({"enum": ["a"], "minLength": 2}, "schema.minLength"),
        ({"enum": [{}] * 501}, "schema.enum"),
        ({"properties": {"a": False}}, "schema.properties.a"),
        ({"properties": []}, "schema.properties"),
        ({"type": "object", "required": "a"}, "schema.required"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "schema.required"),
        ({"anyOf": []}, "schema.anyOf"),
        ({"anyOf": [{"type": "string"}], "type": "integer"}, "schema.anyOf[0].type"),
        ({"anyOf": {}, "type": "integer"}, "schema.anyOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "schema.oneOf"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "schema.oneOf"),
        ({"oneOf": [{"type": "integer"}, {"const": "a"}, {"const": "a"}]}, "schema.oneOf"),
        ({"oneOf": [{"const": "a"}, {"enum": ["b", "a"]}]}, "schema.oneOf"),
        ({"oneOf": [{"const": number} for number in range(501)]}, "schema.oneOf: must be at most 500"),
        ({"anyOf": [{"const": number} for number in range(501)]}, "schema.anyOf: must be at most 500"),
        ({"allOf": []}, "schema.allOf"),
        ({"allOf": [{}, False]}, "schema.allOf[1]"),
        ({"allOf": [{}, {"type": "string"}, {"not": {}}]}, "schema.allOf[2].not"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "schema.type"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "schema.pattern"),
        ({"allOf": [{"enum": [1]}, {"enum": [2]}]}, "schema.enum"),
        ({"allOf": [{"minLength": 3}, {"minLength": "x"}]}, "schema.minLength"),
        ({"allOf": [{"multipleOf": 0.5}, {"multipleOf": 2}]}, "schema.multipleOf"),
        ({"allOf": [{"prefixItems": [{}]}, {"items": {}}]}, "schema.prefixItems"),
        ({"allOf": [{"properties": []}, {"properties": {}}]}, "schema.properties"),
        ({"allOf": [{"patternProperties": {"a": {}}}, {"properties": {}}]}, "schema.patternProperties"),
        ({"allOf": [{"$ref": "#"}, {"type": "object"}]}, "itself"),
        (
            {
                "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a", "required": ["x"]}}}},
                "$ref": "#/$defs/a",
                "type": "object",
            },
            "too deep",
        ),
        ({"$ref": "#"}, "itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "itself"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        ({"$ref": "http://x/y"}, "schema.$ref"),
        ({"$ref": 1}, "schema.$ref"),
        ({"items": [{}]}, "schema.items"),
        ([], "schema"),
        ("x", "schema"),
        (False, "schema"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_keyword_and_place(schema, place):
    with pytest.raises(SchemaError, match=re.escape(place)):
        grammar_of(schema)


def nested(levels: int):
    schema: dict = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_schemas_are_bounded_in_depth_and_size():
    grammar_of(nested(20))
    with pytest.raises(SchemaError, match="too deep"):
        grammar_of(nested(200))
    wide = {"properties": {str(number): {"properties": {"a": {}}} for number in range(5000)}}
    with pytest.raises(SchemaError, match="too large"):
        grammar_of(wide)


def test_a_schema_that_doubles_itself_costs_no_more_than_its_text():
    definitions = {
        f"d{n}": {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2}} for n in range(12)
    }
    schema = {"$defs": definitions | {"d12": {"const": 1}}, "$ref": "#/$defs/d0"}
    for one in (schema, schema | {"type": "array"}):
        assert accepts(grammar_of(one), "[" * 12 + "1" + "]" * 12)


def test_nesting_ends_somewhere_even_when_the_schema_does_not():
    grammar = grammar_of({"type": "array", "items": {"$ref": "#"}})
    assert accepts(grammar, "[" * 30 + "]" * 30)
    assert grammar.follow(grammar.start, "[" * 1000) is None


_bounds = st.decimals(-2000, 2000, places=3) | st.integers(-20, 20).map(Decimal)


@settings(max_examples=300, deadline=None)
@given(
    st.none() | _bounds,
    st.none() | _bounds,
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, 3, 7, 20]),
    st.integers(0, 2**32),
)
def test_numbers_between_two_bounds_are_just_those(low, high, open_low, open_high, step, seed):
    part = between(
        None if low is None else Bound(low, open_low),
        None if high is None else Bound(high, open_high),
        step=step,
    )

    def within(value: Decimal) -> bool:
        above = low is None or value > low or (value == low and not open_low)
        above = above and (step is None or value % step == 0)
        return above and (high is None or value < high or (value == high and not open_high))

    dice = random.Random(seed)
    near = [
        bound + beside
        for bound in (low, high)
        if bound is not None
        for beside in map(Decimal, ("0", "1", "-1", "0.001", "-0.001", "0.0001", "-0.0001"))
    ]
    tried = [
        *near,
        *(Decimal(dice.randint(-3_000_000, 3_000_000)).scaleb(-dice.randint(0, 3)) for _ in range(20)),
    ]
    if step is not None:
        whole = [value.to_integral_value() for value in tried]
        tried = whole + [value - value % step for value in whole]
    if part is None:
        assert not any(map(within, tried))
        return
    grammar = Grammar(part)
    for value in tried:
        # Beyond the digits of an open bound the grammar stops somewhere, and without a bound at 16 digits.
        if accepts(grammar, format(value.normalize() + 0, "f")) != within(value):
            assert within(value)
            assert abs(value.as_tuple().exponent) > 3
    for _ in range(10):
        text = draw(grammar, dice)
        assert text is not None
        assert within(Decimal(text)), text
        assert step is None or "." not in text


PATTERNS = [
    r"^abc$",
    r"^[A-Z]{2,3}-\d+$",
    r"b+c?",
    r"^(a|bc)*$",
    r"^(?:x(?:y|z)){1,3}$|^w$",
    r"^[^a-y\s]+$",
    r"^\w+@\w+\.(com|org)$",
    r'^["\\/]+$',
    r"^.\.\^\$$",
    r"^[\]\-a]+[+-]?$",
    r"^é\u00e9\x41+$",
    r"^\S\D\W$",
    r"^a*?b+?$",
    r"^$",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_made_for_a_pattern_match_it(pattern):
    grammar = Grammar(text_like(pattern))
    dice = random.Random(3)
    for _ in range(60):
        text = draw(grammar, dice)
        assert text is not None
        assert re.search(pattern, json.loads(f'"{text}"')), text


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            r"(?=a)",
            r"(?P<x>a)",
            r"\bx",
            r"\1",
            "(a",
            "a)",
            "[a",
            "[]",
            "a**",
            "*",
            "a{1",
            "a{2,1}",
            "a{1,9999}",
        ),
        *("(a?)*", r"\p{L}", r"\x1", r"\u12", "[b-a]", r"[\d-z]", "a$b", "(^a)", "\\"),
        *("(" * 40 + ")" * 40, "a" * 600, None),
    ],
)
def test_patterns_beyond_the_common_language_are_refused(pattern):
    with pytest.raises(PatternError):
        text_like(pattern)
