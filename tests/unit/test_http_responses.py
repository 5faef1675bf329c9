"""OpenAI's responses: bodies become requests or one error that names the field; events become items."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.errors import EdgeError, EngineLost
from edged.api.events import CallPiece, Delta, Finished, Timings, TokenLogprob, Usage
from edged.api.requests import Message, Sampling, Tool, ToolCall
from edged.transports.http.dialect import Asking, renamed
from edged.transports.http.errors import error_object
from edged.transports.http.responses import Responses, ResponsesBody
from tests.kit.http_serving import LIMITS, MODEL

ASKING = Asking(model=MODEL, limits=LIMITS, request_id="http-1", client="http:127.0.0.1")
SCHEMA = '{"type": "object"}'


def answer(body=None, **fields):
    raw = body if isinstance(body, bytes) else json.dumps({"input": "hi", **(body or {}), **fields}).encode()
    return Responses().read(raw, ASKING)


def request(**fields):
    return answer(**fields).request


def param(**fields):
    with pytest.raises(EdgeError) as caught:
        answer(**fields)
    return error_object(caught.value)["error"]["param"]


def finished(**fields) -> Finished:
    usage = Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2, reasoning_tokens=1)
    timings = Timings(queue_ms=0, first_ms=1, total_ms=2)
    return Finished(
        **{"id": "http-1", "text": "", "finish": "stop", "usage": usage, "timings": timings, **fields}
    )


def events(*chunks: bytes) -> list[dict]:
    found = []
    for block in b"".join(chunks).decode().split("\n\n"):
        if block:
            kind, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert kind == f"event: {found[-1]['type']}"
    return found


# --- bodies -------------------------------------------------------------------------------


def test_every_accepted_field_reaches_the_request():
    found = answer(
        model="default",
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=1,
        top_p=0.5,
        seed=4,
        stop="END",
        stream=True,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        tools=[{"type": "function", "name": "ping", "description": "d", "parameters": {"type": "object"}}],
        tool_choice={"type": "function", "name": "ping"},
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        id="mine",
        priority=9,
        ttl_s=2.5,
        store=True,
        metadata={"a": "b"},
        truncation="disabled",
    )
    asked = found.request
    assert found.stream
    assert (asked.id, asked.op, asked.max_tokens, asked.stop) == ("mine", "chat", 9, ("END",))
    assert asked.messages == (Message(role="system", content="Be brief."), Message(role="user", content="hi"))
    assert asked.sampling == Sampling(temperature=1.0, top_p=0.5, seed=4)
    assert (asked.schema, asked.thinking, asked.logprobs) == (SCHEMA, True, 2)
    assert asked.tools == (Tool(name="ping", description="d", parameters=SCHEMA),)
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("ping", False)
    assert (asked.priority, asked.ttl_s) == (9, 2.5)


def test_a_minimal_body_gets_the_defaults():
    asked = request()
    assert asked.messages == (Message(role="user", content="hi"),)
    assert (asked.max_tokens, asked.thinking, asked.logprobs, asked.tool_choice) == (None, None, None, "auto")


def test_what_an_assistant_thought_said_and_called_in_a_row_is_one_turn():
    items = [
        {"role": "developer", "content": "Rules."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "How "}, {"type": "input_text", "text": "far?"}],
        },
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Wait.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc", "call_id": "c1", "name": "ping", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "pong", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": "Really."},
    ]
    calls = (ToolCall(id="c1", name="ping"), ToolCall(id="c2", name="pong"))
    assert request(input=items, instructions="Be brief.").messages == (
        Message(role="system", content="Be brief.\n\nRules."),
        Message(role="user", content="How far?"),
        Message(role="assistant", content="Wait.", reasoning="Hm.", tool_calls=calls),
        Message(role="tool", content="1", tool_call_id="c1"),
        Message(role="tool", content="2", tool_call_id="c2"),
        Message(role="assistant", content="Done."),
        Message(role="assistant", content="Really."),
    )


@pytest.mark.parametrize(
    ("effort", "thinking"),
    [("none", False), ("minimal", False), ("low", True), ("xhigh", True), (None, None)],
)
def test_an_effort_is_a_thought_or_none(effort, thinking):
    assert request(reasoning={"effort": effort}).thinking is thinking


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": 3}, "input"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
            "input[0].content",
        ),
        ({"model": "gpt-5"}, "model"),
        ({"model": 5}, "model"),
        ({"instructions": ["x"]}, "instructions"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"stream": "yes"}, "stream"),
        ({"id": "a b"}, "id"),
        ({"inputs": "x"}, "inputs"),
    ],
)
def test_a_wrong_field_is_named(fields, field):
    assert param(**fields) == field


def test_what_the_service_refuses_is_called_as_the_client_calls_it():
    for told, expected in (
        ("max_tokens: x", "max_output_tokens: x"),
        ("schema.a: x", "text.format.schema.a: x"),
    ):
        assert renamed(EngineLost(told, retry_after_s=1.0), Responses.names).message == expected
    kept = EngineLost("the engine died")
    assert renamed(kept, Responses.names) is kept


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*ResponsesBody.__struct_fields__, *ResponsesBody.refused, "zzz"])


@given(st.dictionaries(NAMES, JSON, max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_json_gets_past_as_anything_but_a_request_or_an_error(body):
    with contextlib.suppress(EdgeError):
        answer(body)


# --- answers ------------------------------------------------------------------------------

STREAM = (
    Delta(id="http-1", seq=0, text="Hm", channel="reasoning"),
    Delta(id="http-1", seq=1, text=".", channel="reasoning"),
    Delta(id="http-1", seq=2, text="Wait.", logprobs=(TokenLogprob(b"Wait.", -0.5),)),
    Delta(id="http-1", seq=3, tool_calls=(CallPiece(index=0, id="c1", name="ping", arguments='{"x"'),)),
    Delta(id="http-1", seq=4, tool_calls=(CallPiece(index=0, arguments=":1}"),)),
    Delta(id="http-1", seq=5, tool_calls=(CallPiece(index=1, id="c2", name="pong", arguments="{}"),)),
)
WHOLE = {
    "text": "Wait.",
    "reasoning": "Hm.",
    "logprobs": (TokenLogprob(b"Wait.", -0.5),),
    "tool_calls": (ToolCall(id="c1", name="ping", arguments='{"x":1}'), ToolCall(id="c2", name="pong")),
    "finish": "tool_calls",
}


def test_a_stream_builds_up_what_the_whole_answer_holds():
    streamed = answer(stream=True)
    told = events(streamed.opening(), *map(streamed.delta, STREAM), streamed.closing(finished(**WHOLE)))
    whole = json.loads(json.dumps(answer().whole(finished(**WHOLE)), default=str))
    assert told[-1]["type"] == "response.completed"
    assert told[-1]["response"]["output"] == whole["output"]
    assert [item["type"] for item in whole["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert done == whole["output"]
    for kind, expected in (
        ("response.reasoning_text", "Hm."),
        ("response.output_text", "Wait."),
        ("response.function_call_arguments", '{"x":1}{}'),
    ):
        assert "".join(event["delta"] for event in told if event["type"] == f"{kind}.delta") == expected
    assert whole["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 8,
    }


def test_every_event_of_an_item_names_it_and_its_place():
    streamed = answer(stream=True)
    place = {}
    for event in events(*map(streamed.delta, STREAM), streamed.closing(finished(**WHOLE))):
        if "item" in event:
            assert place.setdefault(event["item"]["id"], event["output_index"]) == event["output_index"]
        elif "item_id" in event:
            assert place[event["item_id"]] == event["output_index"]
    assert sorted(place.values()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("repetition", "repetition")]
)
def test_an_answer_that_was_cut_is_incomplete_and_so_is_its_last_item(finish, reason):
    whole = answer().whole(finished(text="one two", finish=finish))
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert whole["output"][-1]["status"] == "incomplete"
    streamed = answer(stream=True)
    assert events(streamed.closing(finished(finish=finish)))[-1]["type"] == "response.incomplete"


def test_an_answer_that_says_nothing_is_an_empty_message():
    (item,) = answer().whole(finished())["output"]
    assert (item["type"], item["content"][0]["text"]) == ("message", "")


def test_a_stream_that_fails_ends_what_it_began_and_says_why():
    streamed = answer(stream=True)
    told = events(streamed.delta(STREAM[2]), streamed.failure(EngineLost("the engine died")))
    assert told[-1]["type"] == "response.failed"
    response = told[-1]["response"]
    assert (response["status"], response["error"]) == (
        "failed",
        {"code": "engine_lost", "message": "the engine died"},
    )
    assert response["output"][0]["content"][0]["text"] == "Wait."


def test_what_was_asked_stands_in_the_answer_and_nothing_is_stored():
    tool = {"type": "function", "name": "ping", "parameters": {"type": "object"}}
    found = answer(tools=[tool], tool_choice="none", store=True, instructions="Be brief.")
    told = events(found.opening())[0]["response"]
    assert told["tools"] == [tool]
    assert (told["tool_choice"], told["store"], told["instructions"]) == ("none", False, "Be brief.")
    assert (told["status"], told["output"], told["usage"]) == ("in_progress", [], None)
