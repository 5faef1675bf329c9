from __future__ import annotations

import base64
import itertools
import json
import struct

import msgspec
import pytest

from edgectl.client import http_wire, mqtt_wire
from edgectl.client.http_body import body
from edgectl.client.sse import EventParser
from edgectl.errors import Unhealthy
from edged.api.errors import Busy, Cancelled, EdgeError
from edged.api.events import (
    Accepted,
    Alternative,
    CallPiece,
    Delta,
    Failed,
    Finished,
    Score,
    Timings,
    TokenLogprob,
    Usage,
)
from edged.api.requests import Limits, Message, Request, Sampling, Tool, ToolCall
from edged.api.status import ModelInfo
from edged.transports.http.answers import Answer as HttpAnswer
from edged.transports.http.errors import STATUS, error_object
from edged.transports.http.openai import CHAT, TEXT, Wanted
from edged.transports.http.openai import parse as parse_http
from edged.transports.mqtt import replies
from edged.transports.mqtt.codec import decode_request
from edged.transports.mqtt.errors import WIRE_CODES

MODEL = ModelInfo(name="m", quant="q", file_bytes=1, context_tokens=64, slots=1)
LIMITS = Limits(max_prompt_bytes=1000, max_tokens=100, default_max_tokens=10, default_ttl_s=60.0)
CHAT_REQUEST = Request(
    id="r1",
    client="c",
    op="chat",
    messages=(Message(role="system", content="s"), Message(role="user", content="h\u00e9")),
    max_tokens=7,
    stop=("x", "y"),
    sampling=Sampling(temperature=0.5, top_k=3, seed=9),
    thinking=True,
    ttl_s=12.0,
    priority=8,
)
TEXT_REQUEST = Request(id="r2", client="c", op="generate", prompt="raw", logprobs=2, choices=("a", "b"))
CALL = ToolCall(id="call_1", name="ping", arguments='{"x": 1}')
TOOL_REQUEST = Request(
    id="r3",
    client="c",
    op="chat",
    messages=(
        Message(role="user", content="?"),
        Message(role="assistant", content="", reasoning="Hm.", tool_calls=(CALL,)),
        Message(role="tool", content="done", tool_call_id="call_1"),
    ),
    thinking_budget=9,
    schema='{"type": "integer"}',
    tools=(Tool(name="ping", description="Ping", parameters='{"type": "object"}'), Tool(name="pong")),
    tool_choice="ping",
    parallel_tool_calls=False,
    logprobs=3,
    template="door",
)
REQUESTS = [CHAT_REQUEST, TEXT_REQUEST, TOOL_REQUEST]
CLASSIFY_REQUEST = Request(
    id="r4",
    client="c",
    op="classify",
    messages=(Message(role="user", content="?"),),
    choices=("yes", "no"),
    scoring="mean",
)
EMBED_REQUEST = Request(id="r5", client="c", op="embed", inputs=("a", "b"), priority=0)
NO_TIMES = Timings(queue_ms=0.0, first_ms=0.0, total_ms=0.0)
FINISHED = Finished(
    id="r1",
    text='h\u00e9 "\u4e16\U0001f600"\n' * 30,
    finish="length",
    usage=Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2),
    timings=Timings(queue_ms=1.0, first_ms=20.0, total_ms=300.0),
)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("stream", [True, False])
def test_the_daemon_reads_from_http_exactly_what_the_client_was_asked(request_, stream):
    dialect = CHAT if request_.op == "chat" else TEXT
    raw = body(request_, stream=stream)
    wanted = parse_http(raw, dialect, model=MODEL, request_id="x", client="c")
    assert wanted.request == request_
    assert wanted.stream is stream


@pytest.mark.parametrize("request_", [*REQUESTS, CLASSIFY_REQUEST, EMBED_REQUEST])
@pytest.mark.parametrize("stream", [True, False])
def test_the_daemon_reads_from_mqtt_exactly_what_the_client_was_asked(request_, stream):
    raw = mqtt_wire.payload(request_, stream=stream)
    asked = decode_request(raw, client="c", op=request_.op, limits=LIMITS, fallback_id="x")
    assert asked.request == request_
    assert asked.stream is stream


LOGPROBS = (TokenLogprob(b"\xc3", -0.5, (Alternative(b"a", -1.0),)), TokenLogprob(b"\xa9t", -0.25))
RICH = msgspec.structs.replace(
    FINISHED, reasoning="Hm.", tool_calls=(CALL,), logprobs=LOGPROBS, finish="tool_calls", text="\u00e9t"
)


@pytest.mark.parametrize(
    ("dialect", "request_", "event"),
    [(CHAT, CHAT_REQUEST, FINISHED), (TEXT, CHAT_REQUEST, FINISHED), (CHAT, TOOL_REQUEST, RICH)],
)
def test_a_whole_http_answer_of_the_daemon_is_understood(dialect, request_, event):
    answer = HttpAnswer(dialect, Wanted(request=request_, stream=False, include_usage=False), "m")
    collected = http_wire.Collected(request_)
    collected.add(http_wire.chunk(msgspec.json.encode(answer.whole(event))))
    assert collected.finished(NO_TIMES) == msgspec.structs.replace(event, id=request_.id)


def test_a_streamed_http_answer_of_the_daemon_is_put_together_from_its_pieces():
    answer = HttpAnswer(CHAT, Wanted(request=TOOL_REQUEST, stream=True, include_usage=True), "m")
    deltas = [
        Delta(id="r3", seq=0, text="Hm.", channel="reasoning"),
        Delta(id="r3", seq=1, text="\u00e9t", logprobs=LOGPROBS),
        Delta(id="r3", seq=2, tool_calls=(CallPiece(index=0, id="call_1", name="ping"),)),
        Delta(id="r3", seq=3, tool_calls=(CallPiece(index=0, arguments='{"x":'),)),
        Delta(id="r3", seq=4, tool_calls=(CallPiece(index=0, arguments=" 1}"),)),
    ]
    event = msgspec.structs.replace(RICH, id="r3")
    chunks = b"".join([answer.opening(), *map(answer.delta, deltas), answer.closing(event)])
    collected = http_wire.Collected(TOOL_REQUEST)
    events = EventParser().feed(chunks)
    assert events.pop() == "[DONE]"
    assert [delta for data in events for delta in collected.add(http_wire.chunk(data))] == deltas
    assert collected.finished(NO_TIMES) == event


def test_scores_and_vectors_are_understood():
    scores = (Score("yes", 0.75, -0.5, 2), Score("no", 0.25, -1.5))
    scored = msgspec.structs.replace(FINISHED, text="yes", finish="stop", scores=scores)
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
    said = {"choice": "yes", "scores": scores, "usage": usage, "timings": FINISHED.timings}
    collected = http_wire.Collected(msgspec.structs.replace(CLASSIFY_REQUEST, id="r1"))
    collected.add(http_wire.chunk(msgspec.json.encode(said)))
    assert collected.finished(NO_TIMES) == scored
    assert mqtt_wire.Parts("r1").add(replies.response(scored, 10_000)[0]) == scored
    made = msgspec.structs.replace(FINISHED, text="", finish="stop", embeddings=((0.5, -0.25), (1.0, 0.0)))
    data = [
        {"embedding": base64.b64encode(struct.pack("<2f", *vector)).decode()} for vector in made.embeddings
    ]
    collected = http_wire.Collected(msgspec.structs.replace(EMBED_REQUEST, id="r1"))
    collected.add(http_wire.chunk(msgspec.json.encode({"data": data, "usage": usage})))
    assert collected.finished(FINISHED.timings) == made
    parts = mqtt_wire.Parts("r1")
    sent = replies.response(made, 100)
    assert len(sent) > 1
    assert [parts.add(raw) for raw in sent][-1].embeddings == made.embeddings
    with pytest.raises(Unhealthy):
        collected.add(http_wire.chunk(b'{"data": [{"embedding": "xyz"}]}'))


@pytest.mark.parametrize("code", STATUS)
def test_every_error_of_the_http_side_comes_back_typed_with_its_message(code):
    kind = type("Leaf", (EdgeError,), {"code": code})
    body = json.dumps(error_object(kind("what happened", retry_after_s=3.0))).encode()
    found = http_wire.failure(STATUS[code][0], {}, body)
    assert found.message == "what happened"
    assert found.retry_after_s == 3.0
    assert not isinstance(found, Unhealthy)
    if STATUS[code][0] >= 500:
        assert found.code in {code, "busy"}


def test_the_retry_after_header_counts_when_the_body_says_nothing():
    body = b'{"error": {"message": "full", "code": "busy"}}'
    found = http_wire.failure(429, {"retry-after": "7"}, body)
    assert isinstance(found, Busy)
    assert found.retry_after_s == 7.0


@pytest.mark.parametrize("raw", [b"<html>", b"", b"\xff", b"[]", b'{"error": 3}'])
def test_an_error_page_of_another_server_is_unhealthy(raw):
    assert isinstance(http_wire.failure(404, {"content-type": "text/html"}, raw), Unhealthy)


@pytest.mark.parametrize("limit", [160, 200, 333, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_parts_of_the_daemon_join_in_any_order_and_doubled(limit, seed):
    import random

    sent = replies.response(FINISHED, limit) * 2
    random.Random(seed).shuffle(sent)
    parts = mqtt_wire.Parts("r1")
    found = next(done for raw in sent if (done := parts.add(raw)) is not None)
    assert found.text == FINISHED.text
    assert found.finish == "length"


def test_an_answer_in_one_message_keeps_usage_and_times():
    parts = mqtt_wire.Parts("r1")
    assert parts.add(replies.response(FINISHED, 100_000)[0]) == FINISHED


def test_an_answer_over_mqtt_keeps_its_thought_its_calls_and_its_probabilities():
    logprobs = (TokenLogprob("\u00e9t".encode(), -0.5, (Alternative(b"a", -1.0),)), TokenLogprob(b"!", -0.25))
    event = msgspec.structs.replace(RICH, logprobs=logprobs)
    assert mqtt_wire.Parts("r1").add(replies.response(event, 100_000)[0]) == event


def test_parts_cut_in_two_ways_are_not_mixed():
    first, second = replies.response(FINISHED, 200), replies.response(FINISHED, 333)
    parts = mqtt_wire.Parts("r1")
    interleaved = itertools.chain(*zip(first, second, strict=False))
    found = [done for raw in [*interleaved, *first] if (done := parts.add(raw)) is not None]
    assert found[0].text == FINISHED.text


@pytest.mark.parametrize(
    "raw", [b"{}", b"x", b"\xff", b'{"ok":true,"part":0,"parts":1}', b'{"ok":true,"part":3,"parts":2}']
)
def test_a_malformed_response_is_unhealthy_and_never_an_answer(raw):
    with pytest.raises(Unhealthy):
        mqtt_wire.Parts("r1").add(raw)


@pytest.mark.parametrize("code", WIRE_CODES.values())
def test_every_failure_over_mqtt_comes_back_typed(code):
    raw = replies.response(Failed(id="r", code=code, message="why", retry_after_s=2.0), 1000)[0]
    with pytest.raises(EdgeError) as caught:
        mqtt_wire.Parts("r").add(raw)
    assert caught.value.code == code
    assert caught.value.retry_after_s == 2.0


def test_the_stream_topic_tells_place_pieces_and_nothing_else():
    assert mqtt_wire.told(replies.accepted(Accepted(id="r", position=2, eta_s=1.5)), "r") == Accepted(
        id="r", position=2, eta_s=1.5
    )
    pieces = [mqtt_wire.told(raw, "r") for raw in replies.deltas("r", 4, "ab", 1000)]
    assert pieces == [Delta(id="r", seq=4, text="ab")]
    thought = replies.deltas("r", 2, "Hm", 1000, "reasoning")[0]
    assert mqtt_wire.told(thought, "r") == Delta(id="r", seq=2, text="Hm", channel="reasoning")
    assert mqtt_wire.told(replies.done(FINISHED, 9), "r") is None


def test_a_cancelled_request_is_cancelled():
    raw = replies.response(Failed(id="r", code="cancelled", message="stopped"), 1000)[0]
    with pytest.raises(Cancelled):
        mqtt_wire.Parts("r").add(raw)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b"[" * 5000, b'{"id": 3}', b'{"id": null}'])
def test_a_message_without_an_id_is_about_none_of_ours(raw):
    assert mqtt_wire.request_id(raw) is None
