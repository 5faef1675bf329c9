from __future__ import annotations

import itertools
import json

import pytest

from edgectl.client import http_wire, mqtt_wire
from edgectl.errors import Unhealthy
from edged.api.errors import Busy, Cancelled, EdgeError, Internal
from edged.api.events import Accepted, Delta, Failed, Finished, Timings, Usage
from edged.api.requests import Limits, Message, Request, Sampling
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
TEXT_REQUEST = Request(id="r2", client="c", op="generate", prompt="raw")
FINISHED = Finished(
    id="r1",
    text='h\u00e9 "\u4e16\U0001f600"\n' * 30,
    finish="length",
    usage=Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2),
    timings=Timings(queue_ms=1.0, first_ms=20.0, total_ms=300.0),
)


@pytest.mark.parametrize(("request_", "dialect"), [(CHAT_REQUEST, CHAT), (TEXT_REQUEST, TEXT)])
@pytest.mark.parametrize("stream", [True, False])
def test_the_daemon_reads_from_http_exactly_what_the_client_was_asked(request_, dialect, stream):
    raw = json.dumps(http_wire.body(request_, stream=stream)).encode()
    wanted = parse_http(raw, dialect, model=MODEL, request_id="x", client="c")
    assert wanted.request == request_
    assert wanted.stream is stream


@pytest.mark.parametrize("request_", [CHAT_REQUEST, TEXT_REQUEST])
@pytest.mark.parametrize("stream", [True, False])
def test_the_daemon_reads_from_mqtt_exactly_what_the_client_was_asked(request_, stream):
    raw = mqtt_wire.payload(request_, stream=stream)
    asked = decode_request(raw, client="c", op=request_.op, limits=LIMITS, fallback_id="x")
    assert asked.request == request_
    assert asked.stream is stream


@pytest.mark.parametrize("dialect", [CHAT, TEXT])
def test_a_whole_http_answer_of_the_daemon_is_understood(dialect):
    answer = HttpAnswer(dialect, Wanted(request=CHAT_REQUEST, stream=False, include_usage=False), "m")
    import msgspec

    chunk = http_wire.chunk(msgspec.json.encode(answer.whole(FINISHED)))
    found = http_wire.finished("r1", chunk.text, chunk.finish, chunk.usage, chunk.timings)
    assert found == FINISHED


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
    assert caught.value.code == code if code != "thermal" else isinstance(caught.value, Internal)
    assert caught.value.retry_after_s == 2.0


def test_the_stream_topic_tells_place_pieces_and_nothing_else():
    assert mqtt_wire.told(replies.accepted(Accepted(id="r", position=2, eta_s=1.5)), "r") == Accepted(
        id="r", position=2, eta_s=1.5
    )
    pieces = [mqtt_wire.told(raw, "r") for raw in replies.deltas("r", 4, "ab", 1000)]
    assert pieces == [Delta(id="r", seq=4, text="ab")]
    assert mqtt_wire.told(replies.done(FINISHED, 9), "r") is None


def test_a_cancelled_request_is_cancelled():
    raw = replies.response(Failed(id="r", code="cancelled", message="stopped"), 1000)[0]
    with pytest.raises(Cancelled):
        mqtt_wire.Parts("r").add(raw)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b"[" * 5000, b'{"id": 3}', b'{"id": null}'])
def test_a_message_without_an_id_is_about_none_of_ours(raw):
    assert mqtt_wire.request_id(raw) is None
