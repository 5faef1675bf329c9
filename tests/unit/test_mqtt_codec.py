"""Bytes to requests: what is understood, and how everything else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.api.errors import BadRequest, EdgeError, Expired, TooLarge
from edged.api.requests import ID_PATTERN, Limits, Message
from edged.transports.mqtt import codec

LIMITS = Limits(max_prompt_bytes=1024, max_tokens=100, default_max_tokens=50, default_ttl_s=60.0)


def decode(body, op="chat", **options):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return codec.decode_request(payload, client="me", op=op, limits=LIMITS, fallback_id="auto-1", **options)


def refusal(body, op="chat"):
    with pytest.raises(BadRequest) as caught:
        decode(body, op)
    return caught.value.message


def test_every_field_arrives():
    asked = decode({
        "id": "7", "messages": [{"role": "user", "content": "hi"}], "system": "be brief", "max_tokens": 9,
        "max_bytes": 200, "ttl_s": 3, "priority": 2, "stream": True, "stop": ["a", "b"], "temperature": 0.5,
        "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 4, "presence_penalty": 1, "frequency_penalty": 0.5,
        "repeat_penalty": 1.1, "thinking": True, "reply_to": "app/x", "template": "door",
    })  # fmt: skip
    request = asked.request
    assert (request.id, request.client, request.op) == ("7", "me", "chat")
    assert request.messages == (
        Message(role="system", content="be brief"),
        Message(role="user", content="hi"),
    )
    assert (request.max_tokens, request.ttl_s, request.priority, request.stop) == (9, 3.0, 2, ("a", "b"))
    assert (request.sampling.top_k, request.sampling.seed, request.sampling.frequency_penalty) == (3, 4, 0.5)
    assert request.template == "door"
    assert (request.thinking, asked.stream, asked.max_bytes, asked.reply_to) == (True, True, 200, "app/x")


def test_what_programs_ask_of_an_answer_arrives():
    tools = [{"name": "ping", "description": "d", "parameters": {"type": "object"}}, {"name": "b"}]
    asked = decode({
        "prompt": "x", "schema": {"type": "object"}, "tools": tools, "tool_choice": "ping",
        "parallel_tool_calls": False, "logprobs": 3, "thinking_budget": 9,
    }).request  # fmt: skip
    assert json.loads(asked.schema) == {"type": "object"}
    assert [(tool.name, tool.description) for tool in asked.tools] == [("ping", "d"), ("b", "")]
    assert json.loads(asked.tools[0].parameters) == {"type": "object"}
    assert (asked.tool_choice, asked.parallel_tool_calls, asked.logprobs) == ("ping", False, 3)
    assert asked.thinking_budget == 9
    assert decode({"prompt": "x", "json_mode": True}).request.json_mode
    assert decode({"prompt": "x", "schema": None}).request.schema == ""
    assert decode({"prompt": "x", "choices": ["a", "b"]}).request.choices == ("a", "b")
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "ping", "arguments": "{}"}]},
        {"role": "tool", "content": "pong", "tool_call_id": "1"},
    ]
    messages = decode({"messages": turns}).request.messages
    assert messages[1].tool_calls[0].name == "ping"
    assert messages[2].tool_call_id == "1"


def test_bytes_that_are_no_text_are_refused_in_a_schema_too():
    assert "UTF-8" in refusal(b'{"prompt": "x", "schema": {"a": "\xff"}}')


def test_a_prompt_is_the_one_message_of_a_chat_and_the_text_of_generate():
    assert decode({"prompt": "x"}).request.messages == (Message(role="user", content="x"),)
    assert decode({"prompt": "x"}, "generate").request.prompt == "x"
    assert decode({"prompt": "x", "stop": "END"}).request.stop == ("END",)
    assert decode({"prompt": "x"}).request.id == "auto-1"


def test_choices_and_inputs_arrive():
    asked = decode({"prompt": "is it open?", "choices": ["yes", "no"], "scoring": "mean"}, "classify")
    assert asked.request.op == "classify"
    assert asked.request.messages == (Message(role="user", content="is it open?"),)
    assert (asked.request.choices, asked.request.scoring) == (("yes", "no"), "mean")
    assert decode({"prompt": "x", "choices": ["yes", "no"]}, "classify").request.scoring == "constrained"
    assert decode({"inputs": ["a", "b"]}, "embed").request.inputs == ("a", "b")
    assert decode({"inputs": "a"}, "embed").request.inputs == ("a",)


@pytest.mark.parametrize(
    ("body", "op", "message"),
    [
        ({}, "sing", "op: there is no operation 'sing'; there are chat, generate, classify, embed"),
        ({"prompt": "x"}, "embed", "prompt: belongs to chat; embed takes inputs"),
        ({"prompt": "x", "inputs": ["y"]}, "chat", "inputs: belongs to embed"),
        ({"prompt": "x", "scoring": "mean"}, "chat", "scoring: belongs to classify"),
        ({"choices": ["a", "b"]}, "classify", "messages: is needed (or prompt, for a single user message)"),
        ({"prompt": "x", "scoring": "best"}, "classify", "scoring: invalid enum value 'best'"),
        ({}, "chat", "messages: is needed (or prompt, for a single user message)"),
        ({}, "generate", "prompt: is needed"),
        ({"prompt": "x", "messages": []}, "chat", "prompt, messages: give one of the two"),
        (
            {"prompt": "x", "system": "y"},
            "generate",
            "system: belongs to chat; generate takes a prompt as it is",
        ),
        ({"prompt": "x", "max_bytes": 100}, "chat", "max_bytes: must be at least 160"),
        ({"prompt": "x", "top_q": 1}, "chat", "top_q: there is no such field; did you mean top_p?"),
        ({"prompt": "x", "zzz\n\x1b[31m": 1}, "chat", "zzz??[31m: there is no such field"),
        (
            {"messages": [{"role": "user", "contents": "x"}]},
            "chat",
            "messages[0].contents: there is no such field; did you mean content?",
        ),
        ({"messages": [{"role": "x", "content": "x"}]}, "chat", "messages[0].role: invalid enum value 'x'"),
        (
            {"prompt": "x", "needs": {"model": "x\nlevel=ERROR forged"}},
            "chat",
            "needs.model: expected `str` matching regex '^[ -~]*\\\\Z'",
        ),
        ({"prompt": "x", "id": 7}, "chat", "id: expected `str | null`, got `int`"),
        ({"prompt": "x", "stream": "yes"}, "chat", "stream: expected `bool`, got `str`"),
        ([], "chat", "the payload: expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(body, op, message):
    assert refusal(body, op) == message


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"{", b"\xff", b'{"prompt":"\xff"}', b'{"temperature":NaN,"prompt":"x"}', b"[" * 20000,
     b'{"messages":' + b'[{"content":' * 1500, b"\x00", b'{"prompt":"\\ud800"}', b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_junk_is_a_bad_request(payload):
    assert refusal(payload)


def test_size_is_judged_before_anything_is_parsed():
    with pytest.raises(TooLarge):
        decode(b"{" * (codec.max_payload_bytes(LIMITS) + 1))
    with pytest.raises(TooLarge):
        codec.decode_ask(b"\xff" * 1025, request_id="a", limits=LIMITS)


def test_the_shorter_of_ttl_and_message_expiry_counts_and_none_left_is_expired():
    assert decode({"prompt": "x", "ttl_s": 9}, expiry_s=4).request.ttl_s == 4.0
    assert decode({"prompt": "x", "ttl_s": 3}, expiry_s=4).request.ttl_s == 3.0
    assert decode({"prompt": "x"}, expiry_s=4).request.ttl_s == 4.0
    assert decode({"prompt": "x"}).request.ttl_s is None
    with pytest.raises(Expired):
        decode({"prompt": "x"}, expiry_s=0)


def test_an_id_is_read_from_a_broken_request_only_if_it_is_one():
    assert codec.read_id(b'{"id":"7","nonsense":1}', LIMITS) == "7"
    for payload in (b'{"id":"a b"}', b'{"id":7}', b"[", b"\xff", b"[" * 20000, b'{"id":"' + b"x" * 99999):
        assert codec.read_id(payload, LIMITS) is None


def test_made_up_ids_are_ids_and_the_same_correlation_data_gives_the_same():
    assert ID_PATTERN.fullmatch(codec.correlation_id(b"\x00\xff"))
    assert codec.correlation_id(b"a") == codec.correlation_id(b"a") != codec.correlation_id(b"b")
    with pytest.raises(BadRequest):
        codec.check_correlation(b"x" * 1025)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(codec.Body.__struct_fields__), JSON, max_size=5)


@given(
    st.binary(max_size=200) | BODIES.map(lambda body: json.dumps(body).encode()),
    st.sampled_from(codec.OPS),
)
@example(b'{"id":"\\u0000","prompt":""}', "chat")
def test_any_bytes_give_a_request_or_one_error_of_one_line(payload, op):
    found = outcome(payload, op)
    if isinstance(found, EdgeError):
        assert found.code in {"bad_request", "too_large"}
        assert 0 < len(found.message) < 400
    else:
        assert found.request.client == "me"
        assert ID_PATTERN.fullmatch(found.request.id)
    codec.read_id(payload, LIMITS)


def outcome(payload, op):
    try:
        return decode(payload, op)
    except EdgeError as error:
        return error
