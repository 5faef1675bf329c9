from __future__ import annotations

import random

import pytest

from edgectl.client.ordering import MAX_HELD, OrderedText
from edgectl.client.sse import MAX_EVENT_CHARS, EventParser
from edgectl.errors import Unhealthy

STREAM = (
    'data: one\n\n: comment\n\nevent: x\ndata: two\ndata:more\r\n\r\ndata: {"t": "h\u00e9\u4e16"}\r\rdata\n\n'
)
EVENTS = ["one", "two\nmore", '{"t": "h\u00e9\u4e16"}', ""]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(size):
    raw = STREAM.encode()
    parser = EventParser()
    found = [event for start in range(0, len(raw), size) for event in parser.feed(raw[start : start + size])]
    assert found == EVENTS


def test_comments_and_keep_alives_are_no_events():
    assert EventParser().feed(b": waiting\n\n: waiting\n\n\n\nretry: 10\n\n") == []


def test_an_event_without_its_blank_line_does_not_count():
    assert EventParser().feed(b"data: half\n") == []


def test_a_stream_without_line_ends_is_given_up():
    parser = EventParser()
    assert parser.feed(b"x" * MAX_EVENT_CHARS) == []
    with pytest.raises(Unhealthy):
        parser.feed(b"x")


def test_pieces_in_order_are_shown_at_once():
    ordered = OrderedText()
    assert [ordered.add(seq, text) for seq, text in enumerate("abc")] == ["a", "b", "c"]
    assert ordered.finish("abc") == ""


def test_a_lost_piece_holds_the_rest_back_and_the_final_text_completes_it():
    ordered = OrderedText()
    assert ordered.add(0, "a") == "a"
    assert ordered.add(2, "c") == ""
    assert ordered.finish("abc") == "bc"


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_doubled_and_lost_pieces_always_give_the_text(seed):
    chance = random.Random(seed)
    pieces = list(enumerate("The hall light is on, \u00e9\u4e16\U0001f600."))
    sent = [piece for piece in pieces for _ in range(chance.choice([0, 1, 1, 2]))]
    chance.shuffle(sent)
    ordered = OrderedText()
    shown = "".join(ordered.add(seq, text) for seq, text in sent)
    text = "".join(text for _, text in pieces)
    assert text.startswith(shown)
    assert shown + ordered.finish(text) == text


def test_text_that_does_not_begin_as_it_was_shown_is_an_error():
    ordered = OrderedText()
    ordered.add(0, "yes")
    with pytest.raises(Unhealthy, match="beginning"):
        ordered.finish("no")


def test_what_is_held_back_is_bounded_and_the_missing_piece_is_still_taken():
    ordered = OrderedText()
    for seq in range(1, MAX_HELD * 2):
        assert ordered.add(seq, "x") == ""
    assert ordered.add(0, "x") == "x" * (MAX_HELD + 1)
