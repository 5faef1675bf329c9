"""Ollama's API: bodies become requests or one error that names the field; events become lines."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.errors import BadRequest, EdgeError, EngineLost
from edged.api.events import CallPiece, Delta, Finished, Timings, TokenLogprob, Usage
from edged.api.requests import Message, Sampling, Tool, ToolCall
from edged.transports.http.dialect import Asking, Told, renamed
from edged.transports.http.errors import error_object, error_response, router_error
from edged.transports.http.ollama import CHAT, GENERATE, OllamaChatBody, OllamaGenerateBody
from tests.kit.http_serving import LIMITS, MODEL

ASKING = Asking(model=MODEL, limits=LIMITS, request_id="http-1", client="http:127.0.0.1")
USER = {"role": "user", "content": "hi"}
SCHEMA = '{"type": "object"}'


def read(dialect=CHAT, **fields):
    question = {"messages": [USER]} if dialect is CHAT else {"prompt": "hi"}
    return dialect.read(json.dumps({**question, **fields}).encode(), ASKING)


def request(dialect=CHAT, **fields):
    return read(dialect, **fields).request


def param(dialect=CHAT, **fields):
    with pytest.raises(EdgeError) as caught:
        read(dialect, **fields)
    return error_object(caught.value)["error"]["param"]


def finished(**fields) -> Finished:
    usage = Usage(prompt_tokens=5, completion_tokens=3)
    timings = Timings(queue_ms=1, first_ms=3, total_ms=10)
    return Finished(
        **{"id": "http-1", "text": "", "finish": "stop", "usage": usage, "timings": timings, **fields}
    )


def lines(*chunks: bytes) -> list[dict]:
    return [json.loads(line) for line in b"".join(chunks).splitlines()]


# --- bodies -------------------------------------------------------------------------------


def test_every_accepted_field_reaches_the_request():
    tool = {
        "type": "function",
        "function": {"name": "ping", "description": "d", "parameters": {"type": "object"}},
    }
    found = read(
        model="qwen3.5-2b:latest",
        stream=False,
        format={"type": "object"},
        think="low",
        tools=[tool],
        keep_alive="5m",
        logprobs=True,
        top_logprobs=2,
        options={
            "num_predict": 9,
            "num_ctx": 512.0,
            "temperature": 1,
            "top_p": 0.5,
            "top_k": 20.0,
            "min_p": 0.1,
            "seed": 4,
            "stop": ["END"],
            "repeat_penalty": 1.1,
            "presence_penalty": -1,
            "frequency_penalty": 1.5,
            "num_gpu": 99,
            "num_thread": 4,
            "use_mmap": True,
            "mirostat": 0,
            "typical_p": 1.0,
        },
    )
    asked = found.request
    assert not found.stream
    assert (asked.id, asked.client, asked.op) == ("http-1", "http:127.0.0.1", "chat")
    assert (asked.max_tokens, asked.stop, asked.schema, asked.thinking) == (9, ("END",), SCHEMA, True)
    assert asked.sampling == Sampling(
        temperature=1.0,
        top_p=0.5,
        top_k=20,
        min_p=0.1,
        seed=4,
        repeat_penalty=1.1,
        presence_penalty=-1.0,
        frequency_penalty=1.5,
    )
    assert asked.tools == (Tool(name="ping", description="d", parameters=SCHEMA),)
    assert asked.logprobs == 2


def test_answers_are_streamed_unless_told_otherwise():
    assert read().stream
    assert read(stream=None).stream
    assert not read(stream=False).stream


def test_a_prompt_is_a_question_or_when_raw_a_text_to_go_on_with():
    asked = request(GENERATE, system="Be brief.")
    assert asked.op == "chat"
    assert asked.messages == (Message(role="system", content="Be brief."), Message(role="user", content="hi"))
    asked = request(GENERATE, raw=True)
    assert (asked.op, asked.prompt, asked.messages) == ("generate", "hi", ())


@pytest.mark.parametrize(
    ("value", "schema", "json_mode"),
    [(None, "", False), ("", "", False), ("json", "", True), ({"type": "object"}, SCHEMA, False)],
)
def test_a_format_is_a_schema_as_it_came_or_any_object(value, schema, json_mode):
    asked = request(format=value)
    assert (asked.schema, asked.json_mode) == (schema, json_mode)


@pytest.mark.parametrize(
    ("think", "thinking"), [(None, None), (True, True), (False, False), ("low", True), ("high", True)]
)
def test_a_level_of_thought_is_a_thought(think, thinking):
    assert request(think=think).thinking is thinking


@pytest.mark.parametrize(
    ("options", "most", "seed"),
    [
        ({"num_predict": -1}, 64, None),
        ({"num_predict": -2}, 64, None),
        ({"seed": -1}, None, None),
        ({}, None, None),
    ],
)
def test_numbers_below_nothing_mean_any(options, most, seed):
    asked = request(options=options)
    assert (asked.max_tokens, asked.sampling.seed) == (most, seed)


def test_results_find_their_calls_by_name_in_order():
    call = {"function": {"name": "ping", "arguments": {"x": 1}}}
    turns = [
        USER,
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [call, call, {**call, "id": "own"}],
        },
        {"role": "tool", "content": "1", "tool_name": "ping"},
        {"role": "tool", "content": "3", "tool_call_id": "own"},
        {"role": "tool", "content": "2", "name": "ping"},
        {"role": "tool", "content": "?", "tool_name": "pong"},
    ]
    messages = request(messages=turns).messages
    first, second, third = messages[1].tool_calls
    assert (first.arguments, messages[1].reasoning, third.id) == ('{"x": 1}', "Hm.", "own")
    assert len({first.id, second.id, third.id}) == 3
    assert [message.tool_call_id for message in messages[2:]] == [first.id, "own", second.id, ""]


@pytest.mark.parametrize(
    ("dialect", "fields"), [(CHAT, {"messages": []}), (CHAT, {"messages": None}), (GENERATE, {"prompt": ""})]
)
def test_who_asks_nothing_hears_that_the_model_is_loaded(dialect, fields):
    found = read(dialect, keep_alive=-1, **fields)
    assert isinstance(found, Told)
    told = json.loads(msgspec.json.encode(found.body))
    assert (told["done"], told["done_reason"]) == (True, "load")
    assert told["message" if dialect is CHAT else "response"] in ({"role": "assistant", "content": ""}, "")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "llama3"}, "model"),
        ({"model": 5}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{**USER, "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [{**USER, "images": ["eA=="]}]}, "messages[0].images"),
        ({"messages": [{**USER, "tool_calls": [{"function": {"name": "x"}}]}]}, "messages[0].tool_calls"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "1"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "search", "function": {"name": "x"}}]}, "tools[0].type"),
        ({"format": "xml"}, "format"),
        ({"format": 3}, "format"),
        ({"think": "enormously"}, "think"),
        ({"stream": "yes"}, "stream"),
        ({"truncate": True}, "truncate"),
        ({"options": []}, "options"),
        ({"options": {"wings": 2}}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"num_predict": "many"}}, "options.num_predict"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"num_ctx": 513}}, "options.num_ctx"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"stop": [1]}}, "options.stop[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"message": USER}, "message"),
    ],
)
def test_a_wrong_field_of_a_chat_is_named(fields, field):
    assert param(**fields) == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": 3}, "prompt"),
        ({"images": ["eA=="]}, "images"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"suffix": "x"}, "suffix"),
        ({"raw": True, "system": "x"}, "system"),
        ({"messages": [USER]}, "messages"),
    ],
)
def test_a_wrong_field_of_a_question_is_named(fields, field):
    assert param(GENERATE, **fields) == field


def test_what_the_service_refuses_is_called_as_the_client_calls_it():
    told = renamed(BadRequest("max_tokens: must be between 1 and 64"), CHAT.names).message
    assert told == "options.num_predict: must be between 1 and 64"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*OllamaChatBody.__struct_fields__, *OllamaGenerateBody.__struct_fields__, "zzz"])


@given(st.sampled_from([CHAT, GENERATE]), st.dictionaries(NAMES, JSON, max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_json_gets_past_as_anything_but_a_request_or_an_error(dialect, body):
    with contextlib.suppress(EdgeError):
        read(dialect, **body)


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [CHAT, GENERATE])
def test_a_stream_says_what_the_whole_answer_says_and_ends_with_its_figures(dialect):
    answer = read(dialect)
    end = finished(text="4", reasoning="2 + 2", logprobs=(TokenLogprob(b"4", -0.5),))
    *pieces, last = lines(
        answer.opening(),
        answer.delta(Delta(id="http-1", seq=0, text="2 + 2", channel="reasoning")),
        answer.silence(),
        answer.delta(Delta(id="http-1", seq=1, text="4", logprobs=(TokenLogprob(b"4", -0.5),))),
        answer.closing(end),
    )
    whole = json.loads(msgspec.json.encode(answer.whole(end)))

    def said(line, name):
        return line["message"].get(name) if dialect is CHAT else line.get(name.replace("content", "response"))

    for name in ("content", "thinking"):
        assert "".join(said(piece, name) or "" for piece in pieces) == said(whole, name)
    assert pieces[-1]["logprobs"] == whole["logprobs"]
    assert {piece["done"] for piece in pieces} == {False}
    for told in (last, whole):
        assert (told["done"], told["done_reason"]) == (True, "stop")
        assert (told["prompt_eval_count"], told["eval_count"]) == (5, 3)
        assert (told["total_duration"], told["load_duration"]) == (10_000_000, 0)
        assert (told["prompt_eval_duration"], told["eval_duration"]) == (2_000_000, 7_000_000)


def test_calls_come_whole_with_their_arguments_as_an_object():
    answer = read()
    calls = (
        ToolCall(id="c1", name="ping", arguments='{"x":1}'),
        ToolCall(id="c2", name="pong", arguments='{"x'),
    )
    end = finished(tool_calls=calls, finish="tool_calls")
    piece, last = lines(
        answer.delta(Delta(id="http-1", seq=0, tool_calls=(CallPiece(index=0, id="c1", name="ping"),))),
        answer.closing(end),
    )
    told = [{"id": "c1", "function": {"name": "ping", "arguments": {"x": 1}}}]  # the other one was cut
    assert piece["message"]["tool_calls"] == told
    assert not piece["done"]
    assert last["done_reason"] == "stop"
    assert json.loads(msgspec.json.encode(answer.whole(end)))["message"]["tool_calls"] == told


def test_a_stream_that_fails_ends_with_an_error_in_this_form():
    assert lines(read().failure(EngineLost("the engine died"))) == [{"error": "the engine died"}]


def test_errors_below_this_path_have_this_form_and_keep_their_headers():
    response = error_response(EngineLost("the engine died", retry_after_s=2.0), path="/api/chat")
    assert json.loads(response.body) == {"error": "the engine died"}
    assert response.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", ["/api/pull", "/api/delete", "/api/blobs/sha256:00"])
def test_changes_of_models_are_refused_with_the_command_that_does_them(path):
    error = router_error(404, "POST", path)
    assert error.code == "managed_locally"
    assert "edgectl models pull" in error.hint
    assert router_error(404, "POST", "/api/pulls").code == "not_found"
