"""Events as answers of the OpenAI dialect: thoughts, tool calls and probabilities where its clients look."""

from __future__ import annotations

import json

import msgspec
import pytest

from edged.api.events import (
    Alternative,
    CallPiece,
    Delta,
    Finished,
    Timings,
    TokenLogprob,
    Usage,
    whole_calls,
)
from edged.api.requests import Request, ToolCall
from edged.transports.http.answers import Answer
from edged.transports.http.openai import CHAT, TEXT, Wanted, parse
from tests.kit.http_serving import MODEL

CALLS = (ToolCall(id="call_1", name="ping", arguments='{"x":1}'), ToolCall(id="call_2", name="pong"))
LOGPROBS = (
    TokenLogprob("é".encode()[:1], -0.5, (Alternative(b"a", -1.0), Alternative(b"b", -2.0))),
    TokenLogprob("é".encode()[1:] + b"t", -0.25),
)


def answer(dialect=CHAT) -> Answer:
    request = Request(id="r1", client="c", op=dialect.op)
    return Answer(dialect, Wanted(request=request, stream=True, include_usage=False), "m")


def finished(**fields) -> Finished:
    event = Finished(
        id="r1",
        text="",
        finish="stop",
        usage=Usage(prompt_tokens=1, completion_tokens=2),
        timings=Timings(queue_ms=0, first_ms=1, total_ms=2),
    )
    return msgspec.structs.replace(event, **fields)


def choice(found) -> dict:
    if isinstance(found, bytes):
        found = json.loads(found.partition(b"data: ")[2].partition(b"\n")[0])
    return json.loads(msgspec.json.encode(found["choices"][0]))


def test_a_thought_stands_beside_the_content():
    said = choice(answer().whole(finished(text="4", reasoning="2 + 2")))
    assert said["message"] == {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}
    chunk = choice(answer().delta(Delta(id="r1", seq=0, text="2", channel="reasoning")))
    assert chunk["delta"] == {"reasoning_content": "2"}


def test_calls_are_whole_and_the_message_can_be_sent_back_as_it_is():
    said = choice(answer().whole(finished(tool_calls=CALLS, finish="tool_calls")))
    assert said["finish_reason"] == "tool_calls"
    assert said["message"]["content"] is None
    assert said["message"]["tool_calls"][0] == {
        "id": "call_1", "type": "function", "function": {"name": "ping", "arguments": '{"x":1}'},
    }  # fmt: skip
    turns = [{"role": "user", "content": "?"}, said["message"]]
    raw = json.dumps({"messages": turns}).encode()
    request = parse(raw, CHAT, model=MODEL, request_id="r2", client="c").request
    assert request.messages[1].tool_calls == CALLS


def test_streamed_calls_come_in_pieces_that_are_numbered_through():
    stream = answer()
    pieces = (
        CallPiece(index=0, id="call_1", name="ping"),
        CallPiece(index=0, arguments='{"x"'),
        CallPiece(index=0, arguments=":1}"),
        CallPiece(index=1, id="call_2", name="pong", arguments="{}"),
    )
    first = choice(stream.delta(Delta(id="r1", seq=0, text="Wait.", tool_calls=pieces[:2])))["delta"]
    second = choice(stream.delta(Delta(id="r1", seq=1, tool_calls=pieces[2:])))["delta"]
    assert first["content"] == "Wait."
    assert "content" not in second
    assert [*first["tool_calls"], *second["tool_calls"]] == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "ping", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "pong", "arguments": "{}"}},
    ]
    assert whole_calls(pieces) == CALLS


def test_probabilities_of_a_chat_are_a_list_of_tokens_with_their_bytes():
    said = choice(answer().whole(finished(text="ét", logprobs=LOGPROBS)))["logprobs"]["content"]
    assert [bytes(one["bytes"]) for one in said] == [one.token for one in LOGPROBS]
    assert said[0]["token"] == "�"
    assert said[0]["top_logprobs"][1] == {"token": "b", "logprob": -2.0, "bytes": [98]}
    assert choice(answer().whole(finished(text="x")))["logprobs"] is None
    chunk = choice(answer().delta(Delta(id="r1", seq=0, text="é", logprobs=LOGPROBS[:1])))
    assert chunk["logprobs"]["content"][0]["logprob"] == -0.5


def test_probabilities_of_a_completion_are_parallel_lists_with_offsets():
    stream = answer(TEXT)
    first = choice(stream.delta(Delta(id="r1", seq=0, text="é", logprobs=LOGPROBS[:1])))["logprobs"]
    second = choice(stream.delta(Delta(id="r1", seq=1, text="t", logprobs=LOGPROBS[1:])))["logprobs"]
    assert first["token_logprobs"] == [-0.5]
    assert first["top_logprobs"] == [{"a": -1.0, "b": -2.0}]
    assert first["text_offset"] == [0]
    assert second["text_offset"] == [1]


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "repetition"])
def test_every_reason_is_told(finish):
    assert choice(answer().closing(finished(finish=finish)))["finish_reason"] == finish
