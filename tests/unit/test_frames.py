"""Frames and messages: any cut of the bytes gives the same messages, garbage gives FrameError and no more."""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.api.events import Usage
from edged.api.requests import Message, Sampling
from edged.ipc.frames import HEADER, MAX_FRAME_BYTES, FrameError, FrameReader, pack
from edged.ipc.messages import (
    Cancel,
    Done,
    EngineOptions,
    Heartbeat,
    Load,
    LoadFailed,
    Ready,
    Rejected,
    Start,
    Token,
    decode_from_worker,
    decode_to_worker,
    encode,
)

OPTIONS = EngineOptions(context=128, slots=1, ubatch=8, threads=1)
TO_WORKER = [
    Load(path="/m.gguf", backend="llama", options=OPTIONS),
    Start(key=1, messages=(Message(role="user", content="hé"),), max_tokens=4, sampling=Sampling()),
    Start(key=2, prompt="x", max_tokens=1, stop=("a", "b"), sampling=Sampling(temperature=0.0, seed=7)),
    Cancel(key=3),
]
FROM_WORKER = [
    Heartbeat(progress=1, busy=True),
    Ready(engine="e", model_name="m", context=9, load_ms=1.0, first_token_ms=2.0),
    LoadFailed(message="no"),
    Token(key=1, text="é"),
    Done(key=1, finish="stop", usage=Usage(prompt_tokens=1, completion_tokens=2), decode_ms=0.5),
    Rejected(key=1, code="cancelled", message="bye"),
]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.binary(max_size=50), max_size=10), st.lists(st.integers(0, 600), max_size=40))
def test_any_cut_of_any_frames_is_put_together_again(payloads, cuts):
    reader = FrameReader()
    stream = b"".join(pack(payload) for payload in payloads)
    assert [payload for piece in cut(stream, cuts) for payload in reader.feed(piece)] == payloads


@pytest.mark.parametrize(
    ("messages", "decode"), [(TO_WORKER, decode_to_worker), (FROM_WORKER, decode_from_worker)]
)
def test_every_message_survives_the_wire(messages, decode):
    reader = FrameReader()
    stream = b"".join(encode(message) for message in messages)
    assert [decode(payload) for payload in reader.feed(stream)] == messages


@given(st.binary(max_size=300))
@example(b"\xff\xff\xff\xff")
@example(b"\x00\x00\x00\x00")
def test_garbage_on_the_line_raises_frame_error_and_nothing_else(data):
    for decode in (decode_to_worker, decode_from_worker):
        with contextlib.suppress(FrameError):
            for payload in FrameReader().feed(data):
                decode(payload)


@given(st.sampled_from(TO_WORKER + FROM_WORKER), st.data())
def test_a_damaged_message_raises_frame_error_and_nothing_else(message, data):
    payload = bytearray(encode(message)[HEADER.size :])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    for decode in (decode_to_worker, decode_from_worker):
        with contextlib.suppress(FrameError):
            decode(bytes(payload))


def test_text_that_is_not_utf8_is_a_frame_error():
    payload = msgspec.msgpack.encode({"type": "load_failed", "message": "ab"}).replace(b"ab", b"\xff\xfe")
    with pytest.raises(FrameError):
        decode_from_worker(payload)


def test_nesting_without_end_is_a_frame_error():
    deep = b"\x83\xa4type\xabload_failed\xa7message\xa1a\xa1x" + b"\x91" * 200_000 + b"\xc0"
    with pytest.raises(FrameError):
        decode_from_worker(deep)


def test_a_length_beyond_the_limit_is_refused_before_the_bytes_come():
    with pytest.raises(FrameError, match=str(MAX_FRAME_BYTES)):
        list(FrameReader().feed(HEADER.pack(MAX_FRAME_BYTES + 1)))


def test_a_payload_beyond_the_limit_is_not_sent():
    with pytest.raises(FrameError, match="exceeds"):
        pack(bytes(MAX_FRAME_BYTES + 1))
    assert len(pack(bytes(MAX_FRAME_BYTES))) == MAX_FRAME_BYTES + HEADER.size


def test_a_message_for_the_other_side_is_a_frame_error():
    with pytest.raises(FrameError):
        decode_to_worker(encode(LoadFailed(message="x"))[HEADER.size :])
    with pytest.raises(FrameError):
        decode_from_worker(encode(Cancel(key=1))[HEADER.size :])
