"""Texts that a grammar allows, drawn at random, and JSON schemas to make grammars from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from edged.worker.forms.grammar import Grammar
from edged.worker.forms.schema import SchemaReader

if TYPE_CHECKING:
    import random

    from edged.worker.forms.grammar import State

MAX_CHARS = 4000
# What walks try beside the ends of ranges; closers first, so that texts come to an end.
USUAL = '"}],:{[ \n0123456789-.eEtrufalsn\\abcxyzé東😀/bT+Z'


def grammar_of(schema: Any) -> Grammar:
    """The answers that ``schema`` allows. Raises SchemaError."""
    reader = SchemaReader(schema)
    root = reader.part(schema, "schema")
    return Grammar(root, reader.rules)


def draw(grammar: Grammar, dice: random.Random, *, max_chars: int = MAX_CHARS) -> str | None:
    """One text of the grammar; None when the walk has not ended by ``max_chars``."""
    text = ""
    state: State | None = grammar.start
    hurry = dice.randint(5, 200)  # from there on a walk ends where it may
    while state is not None and len(text) < max_chars:
        if state.complete and (len(text) > hurry or dice.random() < 0.3):
            return text
        options = [char for char in USUAL if grammar.step(state, char) is not None]
        options += [char for char in _ends(grammar, state) if grammar.step(state, char) is not None]
        if not options:
            assert state.complete, f"nothing may follow {text!r}"
            return text
        char = options[0] if len(text) > hurry and dice.random() < 0.7 else dice.choice(options)
        text += char
        state = grammar.step(state, char)
    return None


def _ends(grammar: Grammar, state: State) -> list[str]:
    """The ends of the ranges that may come next."""
    ends = []
    for number, count, *_ in (stack for stack in state.stacks if stack is not None):
        part = grammar._parts[number]
        if isinstance(part, str):
            ends.append(part[count])
        else:
            ends += [chr(code) for pair in part.ranges for code in pair]
    return ends


_names = st.text(alphabet='ab_ é"\\', min_size=0, max_size=4)
_numbers = st.integers(-300, 300) | st.decimals(-50, 50, places=2).map(float)
_plain = st.booleans() | st.none() | st.integers(-1000, 1000) | st.text(alphabet='ab"\\é\n😀', max_size=6)


@st.composite
def _number(draw_from):
    kind = draw_from(st.sampled_from(["integer", "number"]))
    schema = {"type": kind}
    low, high = sorted((draw_from(_numbers), draw_from(_numbers)))
    if low + 2 < high:
        lower = draw_from(st.sampled_from(["minimum", "exclusiveMinimum", "title"]))
        upper = draw_from(st.sampled_from(["maximum", "exclusiveMaximum", "title"]))
        schema |= {lower: low, upper: high} | ({"title": "a number"} if "title" in {lower, upper} else {})
    return schema


@st.composite
def _text(draw_from):
    least = draw_from(st.integers(0, 5))
    return draw_from(
        st.sampled_from(
            [
                {"type": "string"},
                {"type": "string", "minLength": least},
                {"type": "string", "maxLength": least + 3},
                {"type": "string", "minLength": least, "maxLength": least},
                {"type": "string", "pattern": "^[a-c]{2,4}$"},
                {"type": "string", "pattern": r"^\d+(\.\d{1,2})?|x-[^\s\"]+$"},
                {"type": "string", "pattern": 'a\\\\"?b'},
                {"type": "string", "format": "date-time"},
                {"type": "string", "format": "uuid"},
            ]
        )
    )


@st.composite
def _object(draw_from, inner):
    properties = draw_from(st.dictionaries(_names, inner, max_size=4))
    schema = {"type": "object", "properties": properties}
    if properties:
        schema["required"] = draw_from(st.lists(st.sampled_from(sorted(properties)), unique=True))
    extra = draw_from(st.sampled_from([None, False, True, {"type": "integer"}]))
    return schema if extra is None else schema | {"additionalProperties": extra}


@st.composite
def _array(draw_from, inner):
    least, more = draw_from(st.integers(0, 3)), draw_from(st.integers(0, 3))
    schema = {"type": "array", "items": draw_from(inner | st.just({}))}
    schema |= draw_from(
        st.sampled_from([{}, {"minItems": least}, {"minItems": least, "maxItems": least + more}])
    )
    if draw_from(st.booleans()):
        schema["prefixItems"] = draw_from(st.lists(inner, min_size=1, max_size=2))
    return schema


_leaves = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, {"type": ["integer", "null"]}]),
    _number(),
    _text(),
    st.lists(_plain, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _plain.map(lambda value: {"const": value}),
)
schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        _object(inner),
        _array(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        inner.map(lambda one: {"allOf": [one]}),
        inner.map(
            lambda one: {"$defs": {"it": one}, "type": "object", "properties": {"x": {"type": "null"}}}
        ),
    ),
    max_leaves=8,
)
