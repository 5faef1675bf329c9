"""The memory of answers, the back-off and the quiet log: bounds that hold."""

from __future__ import annotations

import logging
import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edged.api.events import Failed, Finished, Score, Timings, Usage
from edged.host.quiet import LINES, WINDOW_S, QuietLog
from edged.transports.mqtt.answers import Answers
from edged.transports.mqtt.backoff import CAP_S, STABLE_S, Backoff


def finished(text="hi"):
    usage, timings = Usage(prompt_tokens=1, completion_tokens=1), Timings(queue_ms=0, first_ms=0, total_ms=0)
    return Finished(id="1", text=text, finish="stop", usage=usage, timings=timings)


def key(number):
    return ("me", "chat", str(number))


def test_an_answer_is_found_for_the_same_payload_only():
    answers = Answers(4, 1 << 20)
    answers.remember(key(1), b"a", finished())
    assert answers.find(key(1), b"a") == finished()
    assert answers.find(key(1), b"b") is None
    assert answers.find(key(2), b"a") is None


def test_the_least_recently_used_goes_first():
    answers = Answers(2, 1 << 20)
    for number in (1, 2):
        answers.remember(key(number), b"", finished())
    answers.find(key(1), b"")
    answers.remember(key(3), b"", finished())
    assert [bool(answers.find(key(number), b"")) for number in (1, 2, 3)] == [True, False, True]


def test_failures_can_be_tried_again_but_a_cancellation_stays():
    answers = Answers(4, 1 << 20)
    answers.remember(key(1), b"", Failed(id="1", code="busy", message=""))
    answers.remember(key(2), b"", Failed(id="2", code="cancelled", message=""))
    assert answers.find(key(1), b"") is None
    assert answers.find(key(2), b"").code == "cancelled"
    answers.remember(key(2), b"", Failed(id="2", code="expired", message=""))
    assert answers.find(key(2), b"") is None
    assert answers.size_bytes == 0


def test_scores_and_embeddings_count_like_the_text():
    plain, large = Answers(4, 1 << 20), Answers(4, 1 << 20)
    plain.remember(key(1), b"", finished())
    scores = (Score(choice="c" * 200, probability=0.5, logprob=-1.0, tokens=1),) * 64
    large.remember(key(1), b"", msgspec.structs.replace(finished(), scores=scores))
    assert large.size_bytes > plain.size_bytes + 64 * 200
    large.remember(key(2), b"", msgspec.structs.replace(finished(), embeddings=((0.5,) * 1000,) * 30))
    assert large.size_bytes > 30_000 * 24
    large.remember(key(3), b"", msgspec.structs.replace(finished(), embeddings=((0.5,) * 1000,) * 64))
    assert large.find(key(3), b"") is None


def test_no_memory_can_be_asked_for():
    answers = Answers(0, 1 << 20)
    answers.remember(key(1), b"", finished())
    assert len(answers) == 0


@given(
    st.lists(st.tuples(st.integers(0, 9), st.text(max_size=2000)), max_size=60),
    st.integers(0, 5),
    st.integers(0, 20000),
)
def test_count_and_bytes_stay_within_bounds(writes, max_count, max_bytes):
    answers = Answers(max_count, max_bytes)
    for number, text in writes:
        answers.remember(key(number), b"", finished(text))
        assert len(answers) <= max_count
        assert 0 <= answers.size_bytes <= max_bytes
        assert (answers.size_bytes == 0) == (len(answers) == 0)


def test_pauses_double_up_to_a_minute_and_a_stable_connection_ends_the_row():
    backoff = Backoff(lambda _low, high: high)
    assert [backoff.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, CAP_S, CAP_S]
    backoff.connected_for(STABLE_S - 1)
    assert backoff.next_s() == CAP_S
    backoff.connected_for(STABLE_S)
    assert backoff.next_s() == 1


@given(st.integers(0, 2**32), st.integers(1, 2000))
def test_jitter_is_over_the_full_range_and_never_above_the_cap(seed, failures):
    backoff = Backoff(random.Random(seed).uniform)
    assert all(0 <= backoff.next_s() <= CAP_S for _ in range(failures))


def test_a_flood_leaves_a_few_lines_and_a_count(caplog):
    now = [0.0]
    quiet = QuietLog(logging.getLogger("flood"), lambda: now[0])
    with caplog.at_level(logging.INFO, "flood"):
        for _ in range(10_000):
            quiet.warning("x")
        assert len(caplog.records) == LINES
        now[0] = WINDOW_S
        quiet.info("y")
    assert caplog.messages[-2:] == [f"{10_000 - LINES} lines were left out in the last flood", "y"]
