"""Tokens are kept within the form an answer must have, wherever they cut it, and forms are made once."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.events import whole_calls
from edged.api.requests import Sampling, Tool
from edged.ipc.messages import EngineOptions, Start
from edged.worker import constrain
from edged.worker.backends.fake import END, FakeBackend, Script
from edged.worker.constrain import Constraint, Forms
from edged.worker.forms.grammar import Alt, Chars, Grammar, GrammarTooLarge, Ref, Repeat, Seq
from edged.worker.refused import Refused
from edged.worker.tool_calls import ToolCalls
from tests.kit.grammar_text import draw, schemas

FORMS = Forms("hermes")
MANY_WAYS = {"anyOf": [{"type": "string", "maxLength": most} for most in range(1, 300)]}
TOOLS = (
    Tool(
        name="get_weather",
        parameters=json.dumps(
            {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"enum": ["C", "F"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 7},
                    "odd": {"type": "number", "multipleOf": 0.5},
                },
                "required": ["city", "days"],
            }
        ),
    ),
    Tool(name="ping"),
)


def order(**fields) -> Start:
    return Start(**{"key": 1, "max_tokens": 10, "sampling": Sampling(), **fields})


def constraint(grammar: Grammar) -> Constraint:
    options = EngineOptions(context=256, slots=1, ubatch=16, threads=1)
    return Constraint(grammar, FakeBackend(Script(), options))


def accepts(grammar: Grammar, data: bytes) -> bool:
    follower = constraint(grammar)
    return all(follower.take(bytes([byte])) for byte in data) and follower.complete


def test_choices_are_the_only_answers():
    grammar = FORMS.read(order(choices=("yes", "yes, é", "no")))
    for text in ("yes", "yes, é", "no"):
        assert accepts(grammar, text.encode())
    for text in ("", "ye", "yess", "Yes", "yes, e"):
        assert not accepts(grammar, text.encode())


def test_an_answer_that_may_go_on_may_end_and_one_that_may_not_is_over():
    follower = constraint(FORMS.read(order(choices=("cold", "cold and wet"))))
    assert not follower.allows(END)
    assert follower.take(b"cold")
    assert follower.allows(END)
    assert not follower.over
    assert follower.take(b" and wet")
    assert follower.over


def test_a_token_that_is_not_allowed_changes_nothing():
    follower = constraint(FORMS.read(order(choices=("ab",))))
    assert not follower.admits(b"b")
    assert not follower.take(b"b")
    assert not follower.admits(b"")
    assert follower.take(b"ab")
    assert follower.over


def test_a_token_may_end_inside_a_code_point_that_may_come_and_no_answer_ends_there():
    follower = constraint(FORMS.read(order(choices=("a", "aé€😀"))))
    data = "aé€😀".encode()
    for end in range(1, len(data)):
        assert follower.take(data[end - 1 : end])
        assert follower.complete == (end == 1)
    assert follower.take(data[-1:])
    assert follower.over


@pytest.mark.parametrize(
    "data",
    [
        b"\xc3\xa8",
        b"\xe2\x82\xad",
        b"\xf0\x9f\x98\x81",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xa9",
        b"\xe0\x82\xa5",
    ],
)
def test_bytes_that_are_no_text_or_another_character_are_refused_as_soon_as_that_is_certain(data):
    follower = constraint(FORMS.read(order(choices=("é", "€", "😀"))))
    taken = [follower.take(data[index : index + 1]) for index in range(len(data))]
    assert not all(taken)
    assert not constraint(FORMS.read(order(choices=("true",)))).take(data[:1])
    free = constraint(FORMS.read(order(json_mode=True)))
    assert free.take(b'{"')
    if data not in {b"\xc3\xa8", b"\xe2\x82\xad", b"\xf0\x9f\x98\x81"}:
        assert not all(free.take(data[index : index + 1]) for index in range(len(data)))


@settings(deadline=None, max_examples=100)
@given(schemas, st.integers(0, 2**32), st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_what_a_grammar_writes_is_taken_in_tokens_of_any_size(schema, seed, sizes):
    grammar = FORMS.read(order(schema=json.dumps(schema)))
    dice = random.Random(seed)
    data = (draw(grammar, dice) or "").encode()
    follower = constraint(grammar)
    position = 0
    while position < len(data):
        size = dice.choice(sizes)
        assert follower.take(data[position : position + size]) or not data
        position += size
    if data:
        assert follower.complete


def test_json_mode_is_any_object():
    grammar = FORMS.read(order(json_mode=True))
    assert accepts(grammar, '{"a": [1, -2.5e3, true, null, "é\\n\\u00e9", {}], "b": {"c": []}}'.encode())
    for text in ("[]", "1", '"a"', "{", '{"a": 01}', '{"a": "\n"}', "{}}", "{'a': 1}", '{"a": "\\ud800"}'):
        assert not accepts(grammar, text.encode())


def test_blanks_are_bounded_because_models_go_on_with_them_for_ever():
    grammar = FORMS.read(order(json_mode=True))
    assert accepts(grammar, b'{\n    "a": 1\n}')
    assert not accepts(grammar, b"{" + b"\n" * 3 + b"}")
    assert not accepts(grammar, b"{\n" + b" " * 50 + b"}")


@pytest.mark.parametrize("form", ["hermes", "functions"])
@pytest.mark.parametrize("seed", range(20))
def test_calls_that_a_grammar_writes_are_read_as_calls(form, seed):
    grammar = Forms(form).read(order(tools=TOOLS, tool_choice="required"))
    text = draw(grammar, random.Random(seed))
    if text is None:
        return
    told = ToolCalls(TOOLS, str, lambda _form, _rest: True).push(text)
    whole = ToolCalls(TOOLS, str, lambda _form, _rest: False).push(text)
    assert not "".join(said for said in (*told, *whole) if isinstance(said, str))
    calls = whole_calls(piece for piece in told if not isinstance(piece, str))
    read = whole_calls(piece for piece in whole if not isinstance(piece, str))
    assert [json.loads(call.arguments) for call in calls] == [json.loads(call.arguments) for call in read]
    assert calls
    for call in calls:
        arguments = json.loads(call.arguments)
        if call.name == "get_weather":
            assert 1 <= arguments["days"] <= 7
            assert isinstance(arguments["city"], str)
            assert arguments.get("unit", "C") in {"C", "F"}


def test_one_tool_can_be_demanded_and_one_call():
    grammar = FORMS.read(order(tools=TOOLS, tool_choice="ping", parallel_tool_calls=False))
    call = b'<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    assert accepts(grammar, call)
    assert not accepts(grammar, call + b"\n" + call)
    assert not accepts(grammar, call.replace(b"ping", b"get_weather"))


def test_a_value_of_a_demanded_call_may_hold_anything_but_the_tag_that_ends_it():
    grammar = Forms("functions").read(
        order(tools=TOOLS, tool_choice="get_weather", parallel_tool_calls=False)
    )
    call = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n{}\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
    )
    for value in ("", "Turin", "a\nb", "</param", "<</b> é", "</parameter", "<parameter=x>", "</paraméter>"):
        assert accepts(grammar, call.replace("{}", value).encode()), value
    assert not accepts(grammar, call.replace("{}", "a</parameter>b").encode())
    assert not accepts(grammar, call.replace("2", "9").encode())


def test_with_tools_that_may_be_called_the_answer_is_of_the_form_or_a_call():
    grammar = FORMS.read(order(tools=TOOLS, schema='{"type": "integer"}'))
    assert accepts(grammar, b"12")
    assert accepts(grammar, b'<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>')
    assert not accepts(grammar, b"Hello")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "none"},
        {"op": "classify", "choices": ("a", "b")},
    ],
)
def test_without_a_form_the_answer_is_free(fields):
    assert FORMS.read(order(**fields)) is None


@pytest.mark.parametrize("schema", ["{", "1e999", '{"const": NaN}', '{"const": "\\ud800"}', "[" * 100_000])
def test_a_schema_that_is_no_json_is_refused(schema):
    with pytest.raises(Refused, match=r"schema|form"):
        FORMS.read(order(schema=schema))


def test_a_schema_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(constrain, "COMPILE_LIMIT_S", 0.05)
    slow = {"$defs": {"a": {"enum": list(range(500))}}, "anyOf": [{"$ref": "#/$defs/a"}] * 3000}
    monkeypatch.setattr(constrain, "_make", lambda *_: [json.dumps(slow) for _ in range(10_000)])
    now = [0.0]
    forms = Forms("hermes", clock=lambda: now[0])
    with pytest.raises(Refused, match="too large"):
        forms.read(order(schema=json.dumps(slow)))
    monkeypatch.setattr(constrain, "_make", lambda *_: Grammar("x"))
    with pytest.raises(Refused, match="too large"):  # without stopping everybody again
        forms.read(order(schema=json.dumps(slow)))
    now[0] = constrain.REFUSED_FOR_S
    assert forms.read(order(schema=json.dumps(slow)))


def test_a_defect_in_making_a_form_refuses_it_and_tells_nothing_of_what_was_asked(monkeypatch, caplog):
    def broken(*_):
        raise KeyError("what somebody wrote")

    monkeypatch.setattr(constrain, "_make", broken)
    with pytest.raises(Refused, match=r"KeyError in test_constrain\.py") as refused:
        Forms("hermes").read(order(json_mode=True))
    assert "somebody" not in f"{refused.value}{caplog.text}"
    assert "KeyError" in caplog.text


def test_the_forms_that_are_remembered_take_bounded_memory_together(monkeypatch):
    monkeypatch.setattr(constrain, "GRAMMARS_BYTES", 1 << 20)
    forms = Forms("hermes")
    first = forms.read(order(schema=json.dumps(MANY_WAYS)))
    follower = constraint(first)
    assert follower.take(b'"aaaaaaaaaa')
    assert first.size_bytes > 1 << 20
    forms.read(order(json_mode=True))
    assert forms.read(order(schema=json.dumps(MANY_WAYS))) is not first
    assert follower.take(b'a"')


def test_a_form_of_more_parts_than_fit_is_refused(monkeypatch):
    monkeypatch.setattr(constrain, "PARTS_BYTES", 100_000)
    forms = Forms("hermes")
    forms.read(order(json_mode=True))
    with pytest.raises(Refused, match="too large"):
        forms.read(order(schema=json.dumps(MANY_WAYS)))


def test_a_character_costs_what_its_ways_are_and_not_their_square(monkeypatch):
    looked_at = []
    forms_of = Grammar._forms
    monkeypatch.setattr(Grammar, "_forms", lambda *words: looked_at.append(1) or forms_of(*words))
    grammar = FORMS.read(order(schema=json.dumps({"type": "string", "pattern": f"^{'.?' * 190}$"})))
    state = grammar.follow(grammar.start, '"')
    looked_at.clear()
    assert grammar.follow(state, "x")
    assert len(looked_at) < 2000


def test_a_form_is_made_once_and_the_last_ones_are_remembered():
    forms = Forms("hermes")
    first = forms.read(order(schema='{"type": "integer"}'))
    assert forms.read(order(schema='{"type": "integer"}')) is first
    for number in range(constrain.GRAMMARS_REMEMBERED):
        forms.read(order(choices=("a", str(number))))
    assert forms.read(order(schema='{"type": "integer"}')) is not first


def test_a_grammar_that_can_be_read_in_too_many_ways_is_refused():
    branching = Alt(tuple(Seq((Chars(((97, 97),)), Ref("x"), str(n))) for n in range(60)))
    grammar = Grammar(branching, {"x": Alt((branching, ""))})
    with pytest.raises(GrammarTooLarge):
        grammar.follow(grammar.start, "a" * 10)


def test_what_a_grammar_remembers_is_bounded_and_forgetting_changes_nothing(monkeypatch):
    monkeypatch.setattr("edged.worker.forms.grammar.MAX_REMEMBERED_BYTES", 20_000)
    grammar = Grammar(Seq(("[", Repeat(Chars(((97, 122),)), 0, 500), "]")))
    follower = constraint(grammar)
    assert follower.take(b"[")
    for _ in range(500):
        assert follower.take(b"q")
        assert grammar.remembered_bytes <= 20_000
    assert not follower.take(b"q")
    assert follower.take(b"]")
    assert follower.over
