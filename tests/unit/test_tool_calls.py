"""Tool calls are found in both forms while they are said, and what is no call is text, all of it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.requests import Tool
from edged.worker.tools import ToolCalls, ToolError, allowed_types, typed

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


def read(text: str, cuts: list[int] = []) -> tuple[str, list[tuple[str, object]]]:  # noqa: B006 - never changed
    numbers = itertools.count()
    reader = ToolCalls(TOOLS, lambda: f"call_{next(numbers)}")
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [item for start, end in itertools.pairwise(edges) for item in reader.push(text[start:end])]
    said, calls = apart([*pieces, *reader.finish()])
    assert [call.id for call in calls] == [f"call_{number}" for number in range(len(calls))]
    return said, [(call.name, json.loads(call.arguments)) for call in calls]


def apart(items) -> tuple[str, list]:
    """Text joined, and calls."""
    said = "".join(item for item in items if isinstance(item, str))
    return said, [item for item in items if not isinstance(item, str)]


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
    reader = ToolCalls(TOOLS, str)
    assert apart(reader.push("<tool_call> is a")) == ("<tool_call> is a", [])
    text = '<tool_call>{"name": "rm"}</tool_call> b'
    assert apart(reader.push(text)) == (text, [])


def test_a_call_comes_as_soon_as_it_is_complete():
    reader = ToolCalls(TOOLS, str)
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


def test_parameters_that_are_no_schema_are_refused_by_the_tools_name():
    for parameters in ("[", "[]", "1", "[" * 100_000):
        with pytest.raises(ToolError, match="ping"):
            ToolCalls([Tool(name="ping", parameters=parameters)], str)


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
