"""The codec: bodies of the OpenAI dialect become requests, or one error that names the field."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.errors import BadRequest, EdgeError
from edged.api.requests import Message, Sampling, Tool, ToolCall
from edged.api.status import ModelInfo
from edged.transports.http.bodies import LABELS, NEUTRAL
from edged.transports.http.errors import ModelNotFound, error_object
from edged.transports.http.openai import CHAT, TEXT, Wanted, parse

MODEL = ModelInfo(name="Qwen3.5-2B", quant="Q4_K_M", file_bytes=1, context_tokens=512, slots=2)
USER = {"role": "user", "content": "hi"}


CALL = {"id": "call_1", "type": "function", "function": {"name": "ping", "arguments": "{}"}}


def parsed(body, dialect=CHAT) -> Wanted:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(raw, dialect, model=MODEL, request_id="http-1", client="http:127.0.0.1")


def refusal(body, dialect=CHAT) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        parsed(body, dialect)
    return caught.value


def param(body, dialect=CHAT) -> str | None:
    return error_object(refusal(body, dialect))["error"]["param"]


def test_every_accepted_field_reaches_the_request():
    wanted = parsed(
        {
            "model": "default",
            "messages": [{"role": "developer", "content": "be brief"}, USER],
            "max_completion_tokens": 9,
            "temperature": 1,
            "top_p": 0.5,
            "top_k": 20,
            "min_p": 0.1,
            "seed": 4,
            "stop": ["a", "b"],
            "presence_penalty": -1,
            "frequency_penalty": 1.5,
            "repeat_penalty": 1.1,
            "stream": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": True},
            "id": "mine",
            "template": "door",
            "priority": 9,
            "ttl_s": 2.5,
        }
    )
    request = wanted.request
    assert (wanted.stream, wanted.include_usage) == (True, True)
    assert (request.id, request.client, request.op) == ("mine", "http:127.0.0.1", "chat")
    assert request.messages == (
        Message(role="system", content="be brief"),
        Message(role="user", content="hi"),
    )
    assert request.sampling == Sampling(
        temperature=1.0,
        top_p=0.5,
        top_k=20,
        min_p=0.1,
        seed=4,
        presence_penalty=-1.0,
        frequency_penalty=1.5,
        repeat_penalty=1.1,
    )
    assert (request.max_tokens, request.stop, request.thinking) == (9, ("a", "b"), True)
    assert (request.priority, request.ttl_s, request.template) == (9, 2.5, "door")


def test_a_minimal_body_gets_the_defaults():
    wanted = parsed({"messages": [USER]})
    assert wanted.request.id == "http-1"
    assert (wanted.stream, wanted.include_usage, wanted.request.priority) == (False, False, 5)
    assert wanted.request.thinking is None


def test_null_means_not_given_for_known_and_unknown_fields():
    fields = (
        "model",
        "max_tokens",
        "temperature",
        "stop",
        "stream",
        "stream_options",
        "seed",
        "id",
        "new_thing",
    )
    assert parsed({"messages": [USER], **dict.fromkeys(fields)}) == parsed({"messages": [USER]})


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels_are_accepted_and_change_nothing(name):
    assert parsed({"messages": [USER], name: {"any": "value"}}) == parsed({"messages": [USER]})


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in NEUTRAL for text in NEUTRAL[name]])
def test_a_missing_feature_may_be_declined_but_not_used(name, text):
    assert parsed({"messages": [USER], name: json.loads(text)}) == parsed({"messages": [USER]})
    assert param({"messages": [USER], name: ["something"]}) == name


def test_only_one_answer_can_be_asked_for():
    assert param({"messages": [USER], "n": 2}) == "n"


def test_an_unknown_field_is_refused_by_name_with_a_guess():
    error = refusal({"messages": [USER], "max_token": 3})
    assert error.message == "max_token: there is no such field; did you mean max_tokens?"
    assert "'\\u2028\"'" in refusal({"messages": [USER], '\u2028"': 1}).message


@pytest.mark.parametrize("name", ["qwen3.5-2b", "Qwen3.5-2B", "Qwen3.5-2B-Q4_K_M", "default"])
def test_the_model_answers_to_its_id_its_name_and_default(name):
    assert parsed({"messages": [USER], "model": name})


def test_another_model_is_not_found():
    error = refusal({"messages": [USER], "model": "gpt-4o"})
    assert isinstance(error, ModelNotFound)
    assert error_object(error)["error"]["param"] == "model"
    assert "Qwen3.5-2B-Q4_K_M" in error_object(error)["error"]["message"]


def test_text_parts_are_joined():
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parsed({"messages": [{"role": "user", "content": content}]}).request.messages[0].content == "ab"


def test_pictures_are_refused_in_words_that_say_why():
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    error = refusal({"messages": [USER, {"role": "user", "content": content}]})
    assert error.code == "no_vision"
    assert "cannot see pictures" in error.message
    assert error_object(error)["error"]["param"] == "messages[1].content"


def test_other_parts_are_refused_by_kind():
    content = [{"type": "input_audio", "input_audio": {}}]
    error = refusal({"messages": [{"role": "user", "content": content}]})
    assert error.message.startswith("messages[0].content: parts of type input_audio are not supported")


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": None}, None),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_an_effort_is_a_thought_or_none_unless_the_switch_says_otherwise(fields, thinking):
    assert parsed({"messages": [USER], **fields}).request.thinking is thinking


@pytest.mark.parametrize("name", ["qwen3.5-2b:latest", "Qwen3.5-2B:Q4_K_M"])
def test_the_model_answers_to_names_with_a_tag(name):
    assert parsed({"messages": [USER], "model": name})


def test_an_answer_of_ours_can_be_sent_back_as_clients_store_it():
    answer = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "annotations": []}
    assert parsed({"messages": [USER, answer, USER]}).request.messages[1].content == ""


def test_a_format_is_a_schema_as_it_came_or_any_object():
    schema = '{"type": "object", "x": 1e3}'
    raw = '{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema", '
    raw += f'"json_schema": {{"name": "n", "strict": true, "schema": {schema}}}}}}}'
    request = parsed(raw.encode()).request
    assert (request.schema, request.json_mode) == (schema, False)
    request = parsed({"prompt": "x", "response_format": {"type": "json_object"}}, TEXT).request
    assert (request.schema, request.json_mode) == ("", True)
    request = parsed({"messages": [USER], "response_format": {"type": "text"}}).request
    assert (request.schema, request.json_mode) == ("", False)


def test_tools_and_which_of_them_to_call_reach_the_request():
    function = {"name": "ping", "description": "d", "parameters": {"type": "object"}, "strict": True}
    tools = [{"type": "function", "function": function}, {"type": "function", "function": {"name": "b"}}]
    named = {"type": "function", "function": {"name": "ping"}}
    request = parsed(
        {"messages": [USER], "tools": tools, "tool_choice": named, "parallel_tool_calls": False}
    ).request
    assert request.tools == (
        Tool(name="ping", description="d", parameters='{"type": "object"}'),
        Tool(name="b"),
    )
    assert (request.tool_choice, request.parallel_tool_calls) == ("ping", False)
    request = parsed({"messages": [USER], "tools": tools}).request
    assert (request.tool_choice, request.parallel_tool_calls) == ("auto", True)


def test_calls_and_their_results_come_back_in_messages():
    turns = [
        USER,
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {
            "role": "tool",
            "content": [{"type": "text", "text": "pong"}],
            "tool_call_id": "call_1",
            "name": "ping",
        },
    ]
    messages = parsed({"messages": turns}).request.messages
    call = ToolCall(id="call_1", name="ping", arguments="{}")
    assert messages[1] == Message(role="assistant", content="", reasoning="Hm.", tool_calls=(call,))
    assert messages[2] == Message(role="tool", content="pong", tool_call_id="call_1")


def test_probabilities_choices_and_a_budget_can_be_asked_for():
    request = parsed({"messages": [USER], "logprobs": True, "top_logprobs": 3, "thinking_budget": 9}).request
    assert (request.logprobs, request.thinking_budget) == (3, 9)
    assert parsed({"messages": [USER], "logprobs": True}).request.logprobs == 0
    assert parsed({"messages": [USER], "logprobs": False}).request.logprobs is None
    assert parsed({"prompt": "x", "logprobs": 2, "choices": ["a", "b"]}, TEXT).request.logprobs == 2
    assert parsed({"prompt": "x", "logprobs": False}, TEXT).request.logprobs is None
    assert parsed({"messages": [USER], "choices": ["a", "b"]}).request.choices == ("a", "b")


def test_tools_belong_to_chats():
    assert param({"prompt": "x", "tools": []}, TEXT) == "tools"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{**USER, "tool_calls": [1]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{**USER, "tool_call_id": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**USER, "name": "x"}]}, "messages[0].name"),
        ({"messages": [USER], "tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"messages": [USER], "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"messages": [USER], "tool_choice": "sometimes"}, "tool_choice"),
        ({"messages": [USER], "response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"messages": [USER], "response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
        ),
        ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [USER], "logprobs": 2}, "logprobs"),
        ({"messages": [{**USER, "weight": 1}]}, "messages[0]"),
        ({"messages": [USER], "temperature": "hot"}, "temperature"),
        ({"messages": [USER], "temperature": True}, "temperature"),
        ({"messages": [USER], "max_tokens": 1.5}, "max_tokens"),
        ({"messages": [USER], "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"messages": [USER], "stop": [1]}, "stop[0]"),
        ({"messages": [USER], "stop": {"a": 1}}, "stop"),
        ({"messages": [USER], "stream": "yes"}, "stream"),
        ({"messages": [USER], "stream_options": {"x": 1}}, "stream_options"),
        ({"messages": [USER], "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ({"messages": [USER], "id": "a b"}, "id"),
        ({"messages": [USER], "id": "a\r\nx-evil: 1"}, "id"),
        ({"messages": [USER], "prompt": "x"}, "prompt"),
    ],
)
def test_a_wrong_field_is_named(body, field):
    assert param(body) == field


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[]", "expected `object`"),
        (b"null", "expected `object`"),
        (b'{"messages": [', "not JSON"),
        (b'{"messages": []} x', "trailing"),
        (b'{"messages": [], "temperature": NaN}', "not JSON"),
        (b'{"messages": [], "temperature": 1e999}', "temperature: "),
        (b'{"messages": [], "seed": 1' + b"0" * 5000 + b"}", "seed: "),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not JSON"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not UTF-8"),
        (b'{"user": "\xff", "messages": []}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"messages":' + b"[" * 100_000, "too deeply"),
        (b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deeply"),
        (
            b'{"messages": [], "response_format": {"type": "json_schema", "json_schema": {"schema": tru}}}',
            "not JSON",
        ),
        (b'{"messages": [], "tools": [{"type": "function", "function": {"parameters": {]}}}]}', "not JSON"),
        (b'{"metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "too deeply"),
    ],
)
def test_what_is_no_json_object_is_one_clear_error(raw, words):
    error = refusal(raw)
    assert isinstance(error, BadRequest)
    assert words in error.message
    assert len(error.message) < 200


def test_the_last_of_a_repeated_field_counts():
    assert (
        parsed(b'{"messages": [{"role":"user","content":"a"}], "seed": 1, "seed": 2}').request.sampling.seed
        == 2
    )


def test_a_prompt_is_one_string_even_in_a_list():
    assert parsed({"prompt": "once"}, TEXT).request.prompt == "once"
    assert parsed({"prompt": ["once"]}, TEXT).request.prompt == "once"
    assert param({"prompt": ["a", "b"]}, TEXT) == "prompt"
    assert param({"prompt": [1, 2]}, TEXT) == "prompt[0]"
    assert param({}, TEXT) == "prompt"
    assert parsed({"prompt": "x"}, TEXT).request.op == "generate"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_get_past_as_anything_but_a_request_or_an_error(raw):
    with contextlib.suppress(EdgeError):
        parsed(raw)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*CHAT.body.__struct_fields__, "n", "tools", "zzz"])


@given(st.dictionaries(NAMES, JSON, max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_json_gets_past_as_anything_but_a_request_or_an_error(body):
    with contextlib.suppress(EdgeError):
        parsed({"messages": [USER], **body})
