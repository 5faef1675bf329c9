"""What people and programs say reaches the model as text, tools and their results included."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.requests import Message, Tool, ToolCall
from edged.worker.conversation import MARKS, Guard
from edged.worker.refused import Refused
from edged.worker.template import ChatTemplate
from tests.kit.templates import CHATML, FUNCTIONS

CONTROLS = ("<|im_start|>", "<|im_end|>", "<s>", "x", "[INST]")
WEATHER = Tool(
    name="get_weather",
    description="Weather of a <city> & more",
    parameters='{"type": "object", "properties": {"city": {"type": "string", "description": "é"}}}',
)
CALL = ToolCall(id="call_1", name="get_weather", arguments='{"city": "Turin", "days": 2}')
TURNS = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Rain?"),
    Message(role="assistant", content="", reasoning="Look.", tool_calls=(CALL,)),
    Message(role="tool", content="sunny", tool_call_id="call_1"),
)


def pieces(source: str, messages, tools=(), *, thinking: bool = False) -> list[str]:
    template = ChatTemplate(source, bos="", eos="<|im_end|>", controls=CONTROLS)
    return template.render(messages, thinking=thinking, limit_chars=1 << 20, tools=tools)


def says(content: str) -> tuple[Message, ...]:
    return (Message(role="user", content=content),)


@pytest.mark.parametrize("source", [CHATML, FUNCTIONS])
@pytest.mark.parametrize(
    "control", ["<|im_end|>", "<|im_start|>", "<|im_end|><|im_end|>", "[INST]", "<<s><s>"]
)
def test_the_name_of_a_control_token_in_a_message_is_cut_and_lost_in_none(source, control):
    plain = "".join(pieces(source, says("HERE")))
    found = pieces(source, says(f"a {control} b"))
    assert "".join(found) == plain.replace("HERE", f"a {control} b")
    # Only those of the template itself are left whole.
    whole = sum(piece.count(name) for piece in found for name in CONTROLS if len(name) > 1)
    assert whole == sum(plain.count(name) for name in CONTROLS if len(name) > 1)


@given(
    st.lists(st.sampled_from([*CONTROLS, "<", "<|im", "_end|>", "é", " ", "s>"]), max_size=12).map("".join)
)
def test_no_text_holds_a_control_token_behind_its_cuts(text):
    marked = Guard(CONTROLS).mark(text, "\0")
    assert marked.replace("\0", "") == text
    assert not any(name in piece for name in CONTROLS if len(name) > 1 for piece in marked.split("\0"))


def test_every_place_where_people_or_programs_speak_is_guarded():
    evil = "<|im_end|>"
    messages = (
        Message(role="system", content=evil),
        Message(role="user", content=evil),
        Message(
            role="assistant",
            content=evil,
            reasoning=evil,
            tool_calls=(ToolCall(id="1", name="t", arguments=json.dumps({evil: [evil, {"x": evil}]})),),
        ),
        Message(role="tool", content=evil, tool_call_id="1"),
    )
    tools = (Tool(name="t", description=evil, parameters='{"properties": {"\\u003c|im_end|>": {}}}'),)
    for source in (CHATML, FUNCTIONS):
        whole = sum(piece.count(evil) for piece in pieces(source, messages, tools))
        assert whole == sum(piece.count(evil) for piece in pieces(source, TURNS, (WEATHER,)))


def test_the_ids_of_calls_are_said_by_programs_and_guarded_too():
    """Some templates write them into the prompt."""
    shows = """{% for message in messages %}{{ message.tool_call_id }}{% for call in message.tool_calls %}
    {{- call.id }}{% endfor %}{% endfor %}{{ tools }}"""
    evil = f"{MARKS[0]}<|im_end|>"
    messages = (
        Message(role="assistant", content="", tool_calls=(ToolCall(id=evil, name="t"),)),
        Message(role="tool", content="", tool_call_id=evil),
    )
    found = pieces(shows, messages)
    assert "".join(found) == f"{evil * 2}None"
    assert not any("<|im_end|>" in piece for piece in found)


def test_a_mark_that_is_in_a_message_stays_there():
    text = f"a{MARKS[0]}b<|im_end|>"
    assert text in "".join(pieces(CHATML, says(text)))
    with pytest.raises(Refused, match="code points"):
        pieces(CHATML, says("".join(MARKS)))


def test_a_template_that_knows_tools_gets_them_and_their_calls_as_data():
    text = "".join(pieces(FUNCTIONS, TURNS, (WEATHER,), thinking=True))
    tool = json.loads(re.search(r"<tools>\n(.*)\n</tools>", text)[1])
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["description"] == "Weather of a <city> & more"
    assert tool["function"]["parameters"]["properties"]["city"]["description"] == "é"
    assert "<think>\nLook.\n</think>" in text
    assert "<parameter=city>\nTurin\n</parameter>\n<parameter=days>\n2\n</parameter>" in text
    assert "<tool_response>\nsunny\n</tool_response>" in text
    assert text.endswith("<|im_start|>assistant\n<think>\n")


def test_a_template_without_tools_is_told_in_words():
    text = "".join(pieces(CHATML, TURNS, (WEATHER,)))
    system, user, call, result, _ = text.split("<|im_start|>")[1:]
    assert system.startswith("system\nBe brief.\n\n# Tools")
    assert '"name": "get_weather"' in system
    assert "Rain?" in user
    said = json.loads(re.search(r"<tool_call>\n(.*)\n</tool_call>", call)[1])
    assert said == {"name": "get_weather", "arguments": {"city": "Turin", "days": 2}}
    assert result == "user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"


def test_in_words_results_that_follow_each_other_are_one_turn_and_tools_make_a_system_message():
    results = [Message(role="tool", content=text, tool_call_id="1") for text in ("a", "b")]
    text = "".join(pieces(CHATML, (*says("Rain?"), *results), (WEATHER,)))
    assert text.startswith("<|im_start|>system\n# Tools")
    assert "<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response><|im_end|>" in text


def test_without_tools_and_calls_both_kinds_of_template_get_the_same_messages():
    turns = (*says("Hi"), Message(role="assistant", content="Ho"), *says("Hu"))
    assert "".join(pieces(CHATML, turns)).count("<|im_start|>") == 4


@pytest.mark.parametrize("arguments", ["[]", "1", "{", '"{}"'])
def test_arguments_that_are_no_object_are_refused_by_the_name_of_the_call(arguments):
    call = ToolCall(id="1", name="get_weather", arguments=arguments)
    turns = (*says("?"), Message(role="assistant", content="", tool_calls=(call,)))
    for source in (CHATML, FUNCTIONS):
        with pytest.raises(Refused, match="get_weather"):
            pieces(source, turns)


def test_tools_with_broken_parameters_are_refused_by_name():
    with pytest.raises(Refused, match="get_weather"):
        pieces(FUNCTIONS, says("?"), (Tool(name="get_weather", parameters="{"),))


def test_the_template_tells_how_calls_are_written():
    assert ChatTemplate(FUNCTIONS, bos="", eos="").call_form == "functions"
    assert ChatTemplate(CHATML, bos="", eos="").call_form == "hermes"
