"""Tool calls are found in both forms while they are said, and what is no call is text, all of it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.events import CallPiece, whole_calls
from edged.api.requests import Tool
from edged.worker.forms.calls import rest_of_call
from edged.worker.tool_calls import ToolCalls
from edged.worker.tools import ToolError, allowed_types, typed

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "near": {"type": ["number", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "any": {},
    },
}
TOOLS = (
    Tool(name="get_weather", parameters=json.dumps(WEATHER)),
    Tool(name="ping"),
)
CUTS = st.lists(st.integers(0, 400), max_size=30)


def pieces_of(text: str, cuts: list[int], *, told: bool = False) -> list[str | CallPiece]:
    """What a reader says; ``told`` as a model does that is held to the form of a call it has begun."""
    numbers = itertools.count()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    end = 0

    def certain(form, rest: str) -> bool:
        grammar = rest_of_call(form)
        state = grammar.follow(grammar.start, text[end - len(rest) :]) if told else None
        return state is not None and state.complete

    reader = ToolCalls(TOOLS, lambda: f"call_{next(numbers)}", certain)
    said: list[str | CallPiece] = []
    for start, end in itertools.pairwise(edges):
        said += reader.push(text[start:end])
    return [*said, *reader.finish()]


def read(
    text: str,
    cuts: list[int] = [],  # noqa: B006 - never changed
    *,
    told: bool = False,
) -> tuple[str, list[tuple[str, object]]]:
    said, calls = apart(pieces_of(text, cuts, told=told))
    assert [call.id for call in calls] == [f"call_{number}" for number in range(len(calls))]
    return said, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("value", ['["\\ud800"]', "[1e999]", "[NaN]", '"\\udfff"', "-1e400"])
@pytest.mark.parametrize("told", [False, True])
def test_values_that_cannot_be_written_as_json_are_told_as_the_text_they_are(value, told):
    call = f"<tool_call><function=get_weather><parameter=any>{value}</parameter></function></tool_call>"
    said, calls = read(call, told=told)
    assert (said, calls) == ("", [("get_weather", {"any": value})])


@pytest.mark.parametrize("value", ['"\\ud800"', "1e999"])
def test_a_call_whose_json_cannot_be_written_again_is_text(value):
    call = '<tool_call>{"name": "ping", "arguments": {"x": VALUE}}</tool_call>'.replace("VALUE", value)
    assert read(call) == (call, [])


def never(*_) -> bool:
    return False


def apart(items) -> tuple[str, list]:
    """Text joined, and calls."""
    said = "".join(item for item in items if isinstance(item, str))
    return said, list(whole_calls(item for item in items if not isinstance(item, str)))


def hermes(name: str, arguments: object) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def xml(name: str, **values: str) -> str:
    inside = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


TURIN = ("get_weather", {"city": "Turin"})


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (hermes(*TURIN), "", [TURIN]),
        (xml("get_weather", city="Turin"), "", [TURIN]),
        ("Let me look.\n\n" + hermes(*TURIN), "Let me look.", [TURIN]),
        (hermes(*TURIN) + "\n" + xml("ping") + "\n", "", [TURIN, ("ping", {})]),
        (hermes(*TURIN) + "\nThere.", "\nThere.", [TURIN]),
        (
            "<tool_call>" + json.dumps([{"name": "ping", "arguments": {}}]) * 1 + "</tool_call>",
            "",
            [("ping", {})],
        ),
        ('<tool_call>{"name": "ping", "arguments": "{}"}</tool_call>', "", [("ping", {})]),
        ('<tool_call>{"name": "ping"}', "", [("ping", {})]),
        (xml("get_weather", city="Turin").removesuffix("\n</tool_call>"), "", [TURIN]),
    ],
)
def test_calls_are_read_in_both_forms(text, said, calls):
    assert read(text) == (said, calls)
    assert read(text, told=True) == (said, calls)


def test_values_in_bare_text_get_the_types_of_the_tools_schema():
    text = xml(
        "get_weather",
        city="12",
        days="3",
        exact="True",
        near="null",
        tags='["a", "b"]',
        options='{"x": [1, {"y": null}]}',
        any="1.5",
        unknown="two",
    )
    assert read(text)[1][0][1] == {
        "city": "12",
        "days": 3,
        "exact": True,
        "near": None,
        "tags": ["a", "b"],
        "options": {"x": [1, {"y": None}]},
        "any": 1.5,
        "unknown": "two",
    }


def test_a_value_that_does_not_fit_its_type_stays_text():
    assert read(xml("get_weather", days="three", tags="a, b"))[1][0][1] == {"days": "three", "tags": "a, b"}


@pytest.mark.parametrize(
    "value",
    [
        "",
        " two  blanks ",
        "line\nline\n",
        '<b>é</b> & "q" \\',
        "</function>",
        "<parameter=x>",
        "a</parameter> b",
    ],
)
def test_a_text_value_comes_back_as_it_was(value):
    assert read(xml("get_weather", city=value, days="1"))[1] == [("get_weather", {"city": value, "days": 1})]


@pytest.mark.parametrize("value", ["</tool_call>", "a\n</tool_call>\nb", "<tool_call>", '"}}', "\\"])
def test_tags_inside_a_string_do_not_end_a_call(value):
    arguments = {"city": value}
    for text in (hermes("get_weather", arguments), xml("get_weather", city=value)):
        assert read(text) == ("", [("get_weather", arguments)])


NO_CALLS = [
    "<tool_call> is how a call begins",
    "<tool_call>\n[1, 2]\n</tool_call>",
    "<tool_call>[]</tool_call>",
    '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "ping", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "ping", "arguments": {"x": NaN}}</tool_call>',
    '<tool_call>{"name": "ping", "arguments": {</tool_call> and so on',
    '<tool_call>{"name": "ping", "arguments": {"x": "never closed',
    "<tool_call><function=rm>\n</function></tool_call>",
    "<tool_call><function=ping>no parameters</function></tool_call>",
    "<tool_call>\n<function=ping>\n<parameter=x>\n1",
    "<tool_call>" + "[" * 3000 + "</tool_call>",
    "a <tool_cal",
    "a  \n",
    "",
]


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_is_text_and_nothing_of_it_is_lost(text):
    assert read(text) == (text, [])


def test_text_that_only_looks_like_a_call_is_not_held_back_for_long():
    reader = ToolCalls(TOOLS, str, never)
    assert apart(reader.push("<tool_call> is a")) == ("<tool_call> is a", [])
    text = '<tool_call>{"name": "rm"}</tool_call> b'
    assert apart(reader.push(text)) == (text, [])


def test_a_call_comes_as_soon_as_it_is_complete():
    reader = ToolCalls(TOOLS, str, never)
    text = hermes(*TURIN)
    assert apart(reader.push("Yes. " + text[:-1])) == ("Yes.", [])
    said, calls = apart(reader.push(text[-1:] + "\n<tool_call>"))
    assert said == ""
    assert [call.name for call in calls] == ["get_weather"]


PIECES = st.lists(
    st.sampled_from(
        [
            hermes(*TURIN),
            xml("get_weather", city="é\nb", days="2"),
            xml("ping"),
            *NO_CALLS[:11],
            "<tool",
            "_call>",
            "</tool_call>",
            "<function=ping>",
            "text ",
            "\n",
            '"',
            "{",
        ]
    ),
    max_size=6,
).map("".join)


@given(PIECES, CUTS)
def test_where_the_text_is_cut_does_not_matter(text, cuts):
    assert read(text, cuts) == read(text)


@given(PIECES, CUTS)
def test_text_outside_of_calls_is_kept_in_order(text, cuts):
    said, calls = read(text, cuts)
    left = iter("".join(text.split()))
    assert all(char in left for char in "".join(said.split()))
    if not calls:
        assert said == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text('ab"\\{}</>\né😀', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"}', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
CALLS = st.one_of(
    st.dictionaries(st.text("xyz", min_size=1, max_size=2), VALUES, max_size=3).map(
        lambda arguments: hermes("ping", arguments)
    ),
    st.dictionaries(
        st.sampled_from(["city", "days", "tags", "any"]), st.text('ab"<>/\n1{é', max_size=8), max_size=4
    ).map(lambda values: xml("get_weather", **values)),
)


@given(st.lists(CALLS | st.sampled_from(["Well. ", "\n", "<tool_call>"]), max_size=4).map("".join), CUTS)
def test_the_pieces_of_calls_joined_are_the_calls_wherever_tokens_cut_the_text(text, cuts):
    told = pieces_of(text, cuts, told=True)
    assert apart(told) == apart(pieces_of(text, [], told=True))
    said, calls = read(text)
    assert read(text, cuts, told=True) == (said, calls)
    named: dict[int, str] = {}
    for piece in told:
        if isinstance(piece, CallPiece):
            assert (piece.index in named) == (not piece.id)
            assert piece.index == len(named) - (piece.index in named)
            named.setdefault(piece.index, piece.name)
    assert list(named.values()) == [name for name, _ in calls]


def test_a_call_is_told_by_its_name_first_and_then_as_its_arguments_come():
    reader = ToolCalls(TOOLS, lambda: "call_1", lambda _form, _rest: True)
    assert reader.push('<tool_call>\n{"name": "get_weather') == [""]
    assert reader.push('",') == [CallPiece(index=0, id="call_1", name="get_weather")]
    assert reader.telling
    assert reader.push(' "arguments": ') == []
    assert reader.push('{"city": "Tu') == [CallPiece(index=0, arguments='{"city": "Tu')]
    assert reader.push('rin"}}\n</tool_') == [CallPiece(index=0, arguments='rin"}')]
    assert reader.push("call>") == [""]
    assert not reader.telling


def test_bare_values_are_told_one_by_one_with_the_types_of_the_schema():
    reader = ToolCalls(TOOLS, lambda: "call_1", lambda _form, _rest: True)
    assert reader.push("<tool_call>\n<function=get_weather>\n<parameter=city>\nTu") == [
        "",
        CallPiece(index=0, id="call_1", name="get_weather"),
    ]
    assert reader.push("rin\n</parameter>\n<par") == [CallPiece(index=0, arguments='{"city": "Turin"')]
    assert reader.push("ameter=days>\n3\n</parameter>\n</function>") == [
        CallPiece(index=0, arguments=', "days": 3}')
    ]
    assert reader.push("\n</tool_call>") == [""]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('<tool_call>{"name": "ping", "arguments": {"x": "ne', '{"x": "ne'),
        ('<tool_call>{"name": "ping"', ""),
        ("<tool_call><function=ping><parameter=x>\n1\n</parameter><parameter=y>\n2", '{"x": 1'),
    ],
)
def test_a_call_that_was_told_and_cut_stays_a_call(text, arguments):
    reader = ToolCalls(TOOLS, lambda: "call_1", lambda _form, _rest: True)
    said, (call,) = apart([*reader.push(text), *reader.finish()])
    assert (said, call.name, call.arguments) == ("", "ping", arguments)


def test_where_one_call_is_wanted_nothing_is_told_behind_it():
    for certain in (never, lambda _form, _rest: True):
        reader = ToolCalls(TOOLS, str, certain, several=False)
        said = reader.push(hermes(*TURIN) + "\n" + xml("ping") + "and so on")
        assert [call.name for call in apart([*said, *reader.push("!"), *reader.finish()])[1]] == [
            "get_weather"
        ]
        assert reader.over


def test_parameters_that_are_no_schema_are_refused_by_the_tools_name():
    for parameters in ("[", "[]", "1", "[" * 100_000, '{"type": "array"}', '{"type": ["object", "null"]}'):
        with pytest.raises(ToolError, match="ping"):
            ToolCalls([Tool(name="ping", parameters=parameters)], str, never)


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"enum": ["a", 1]}, {"string", "integer"}),
        ({"const": None}, {"null"}),
    ],
)
def test_the_types_a_schema_allows_are_found(schema, types):
    assert allowed_types(schema) == types


def test_of_a_type_or_text_the_type_is_tried_first():
    either = frozenset({"string", "integer"})
    assert typed("5", either) == 5
    assert typed("five", either) == "five"
    assert typed("true", either) == "true"
