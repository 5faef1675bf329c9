"""Events to payloads: parts that fit, whole code points, and a code for every error."""

from __future__ import annotations

import base64
import json
import struct

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.api import errors
from edged.api.events import Alternative, Failed, Finished, Score, Timings, TokenLogprob, Usage
from edged.api.requests import ToolCall
from edged.transports.mqtt import replies
from edged.transports.mqtt.codec import MIN_MAX_BYTES
from edged.transports.mqtt.errors import WIRE_CODES

PUBLISHED = {  # the table of docs and of every device out there
    "bad_request", "too_large", "busy", "expired", "loading", "memory_guard", "thermal", "cancelled",
    "internal", "no_box",
}  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x00\x1f"\\\n🙂é'), max_size=600)
IDS = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)


def finished(text, request_id="7"):
    return Finished(
        id=request_id, text=text, finish="length",
        usage=Usage(prompt_tokens=99999, completion_tokens=99999, cached_tokens=99999),
        timings=Timings(queue_ms=9e6, first_ms=9e6, total_ms=9e6),
    )  # fmt: skip


def test_every_error_of_a_request_has_a_published_code():
    assert set(WIRE_CODES) >= {kind.code for kind in errors.REQUEST_ERRORS}
    assert set(WIRE_CODES.values()) == PUBLISHED
    assert replies.wire_code("a code of tomorrow") == "internal"


@given(TEXT, IDS, st.integers(MIN_MAX_BYTES, 2000))
@example("\x00" * 600, "x" * 64, MIN_MAX_BYTES)
@example("🙂" * 600, "x" * 64, MIN_MAX_BYTES)
@example("", "x" * 64, MIN_MAX_BYTES)
def test_parts_fit_are_numbered_and_join_to_the_text(text, request_id, limit):
    payloads = replies.response(finished(text, request_id), limit)
    assert all(len(payload) <= limit for payload in payloads)
    parts = [json.loads(payload) for payload in payloads]  # which also says: no code point was broken
    assert "".join(part["text"] for part in parts) == text
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert {part["parts"] for part in parts} == {len(parts)}
    assert {(part["id"], part["ok"]) for part in parts} == {(request_id, True)}
    assert parts[-1]["finish"] == "length"
    assert not any("finish" in part for part in parts[:-1])


def test_an_answer_that_fits_is_one_part_with_everything():
    (payload,) = replies.response(finished("hi"), 1000)
    assert json.loads(payload).keys() >= {"usage", "t_queue_ms", "t_first_ms", "t_total_ms", "finish"}


CALL = ToolCall(id="call_1", name="open_door", arguments='{"door":2}')


def test_calls_thoughts_and_probabilities_stand_in_the_answer():
    logprobs = (TokenLogprob(b"a", -0.5, (Alternative(b"b", -1.5),)), TokenLogprob(b"c", -2.0))
    fields = {"tool_calls": (CALL,), "reasoning": "Hm.", "logprobs": logprobs, "finish": "tool_calls"}
    (payload,) = replies.response(msgspec.structs.replace(finished("ac"), **fields), 1000)
    said = json.loads(payload)
    assert said["tool_calls"] == [{"id": "call_1", "name": "open_door", "arguments": '{"door":2}'}]
    assert (said["reasoning"], said["finish"]) == ("Hm.", "tool_calls")
    assert said["logprobs"] == [
        {"token": "a", "logprob": -0.5, "top": [["b", -1.5]]},
        {"token": "c", "logprob": -2.0},
    ]


@given(TEXT, st.integers(MIN_MAX_BYTES, 800))
def test_a_small_limit_costs_the_thought_but_never_the_calls(text, limit):
    answer = msgspec.structs.replace(finished(text), tool_calls=(CALL,), reasoning="thought " * 200)
    payloads = replies.response(answer, limit)
    assert all(len(payload) <= limit for payload in payloads)
    parts = [json.loads(payload) for payload in payloads]
    if parts[-1]["ok"]:
        assert [call["name"] for call in parts[-1]["tool_calls"]] == ["open_door"]
        assert "reasoning" not in parts[-1]
    else:
        assert parts[-1]["error"]["code"] == "too_large"
        assert limit < 250


def test_a_thought_is_streamed_as_a_kind_of_its_own():
    (payload,) = replies.deltas("7", 3, "Hm", 200, "reasoning")
    assert json.loads(payload) == {"kind": "reasoning", "id": "7", "seq": 3, "delta": "Hm", "done": False}


def test_scores_stand_beside_the_usage_and_go_before_the_answer_does():
    scores = tuple(Score(choice=f"choice {n}", probability=0.5, logprob=-1.5, tokens=2) for n in range(2))
    answer = msgspec.structs.replace(finished("choice 1"), scores=scores)
    (payload,) = replies.response(answer, 1000)
    assert json.loads(payload)["scores"][1] == {
        "choice": "choice 1", "probability": 0.5, "logprob": -1.5, "tokens": 2,
    }  # fmt: skip
    parts = [json.loads(payload) for payload in replies.response(answer, MIN_MAX_BYTES)]
    assert "".join(part["text"] for part in parts) == "choice 1"
    assert "scores" not in parts[-1]


@given(st.integers(1, 40), st.integers(1, 30), IDS, st.integers(MIN_MAX_BYTES, 2000))
def test_embeddings_come_whole_in_parts_that_fit_or_not_at_all(count, size, request_id, limit):
    vectors = tuple(tuple(float(n * size + k) for k in range(size)) for n in range(count))
    payloads = replies.response(msgspec.structs.replace(finished("", request_id), embeddings=vectors), limit)
    assert all(len(payload) <= limit for payload in payloads)
    parts = [json.loads(payload) for payload in payloads]
    if not parts[0]["ok"]:
        assert len(parts) == 1
        assert parts[0]["error"]["code"] == "too_large"
        assert size * 4 * 4 / 3 > limit - 150
        return
    packed = [base64.b64decode(one) for part in parts for one in part["embeddings"]]
    assert tuple(struct.unpack(f"<{size}f", one) for one in packed) == vectors
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert {part["parts"] for part in parts} == {len(parts)}
    assert parts[-1]["finish"] == "length"


@given(TEXT, st.integers(6, 300))
def test_plain_answers_join_to_the_text_too(text, limit):
    payloads = replies.answer(finished(text), limit)
    assert all(len(payload) <= limit for payload in payloads)
    assert "".join(payload.decode() for payload in payloads) == text


@given(TEXT, IDS, st.integers(0, 10**6), st.integers(MIN_MAX_BYTES, 400))
def test_deltas_fit_and_count_on(text, request_id, first, limit):
    payloads = replies.deltas(request_id, first, text, limit)
    assert all(len(payload) <= limit for payload in payloads)
    pieces = [json.loads(payload) for payload in payloads]
    assert "".join(piece["delta"] for piece in pieces) == text
    assert [piece["seq"] for piece in pieces] == list(range(first, first + len(pieces)))


@given(TEXT, IDS, st.integers(MIN_MAX_BYTES, 400))
def test_a_failure_is_one_message_that_fits(message, request_id, limit):
    failed = Failed(id=request_id, code="memory_guard", message=message, retry_after_s=86400.0)
    (payload,) = replies.response(failed, limit)
    assert len(payload) <= limit
    found = json.loads(payload)
    assert (found["ok"], found["error"]["code"]) == (False, "memory_guard")
    assert message.startswith(found["error"]["message"])


def test_a_failure_without_an_id_says_null():
    (payload,) = replies.response(Failed(id="", code="bad_request", message="m"), 1000)
    assert json.loads(payload)["id"] is None
    assert "retry_after_s" not in json.loads(payload)["error"]


def test_a_plain_failure_is_one_line():
    failed = Failed(id="", code="engine_lost", message="it died\r\nsadly")
    assert replies.answer(failed, 1000) == [b"error: internal: it died sadly"]


@pytest.mark.parametrize("limit", [0, 5])
def test_room_for_nothing_is_an_error_and_not_an_endless_split(limit):
    with pytest.raises(errors.TooLarge):
        replies.split("x", limit, replies.utf8_bytes)


@pytest.mark.parametrize("code", sorted(PUBLISHED))
def test_every_error_fits_the_smallest_room_that_a_device_may_ask_for(code):
    failed = Failed(id="x" * 64, code=code, message="no", retry_after_s=600.0)
    (payload,) = replies.response(failed, MIN_MAX_BYTES)
    assert len(payload) <= MIN_MAX_BYTES
    said = json.loads(payload)
    assert (said["id"], said["ok"], said["part"], said["parts"]) == ("x" * 64, False, 1, 1)
    assert (said["error"]["code"], said["error"]["message"]) == (code, "no")
