"""Bytes become text whole, and stop strings never show, however the bytes are cut."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from edged.worker.text import TextStream

# Few letters, so that stop strings overlap each other and themselves; é, € and 😀 have 2, 3 and 4 bytes.
TEXT = st.text(alphabet="aabbc é€😀", max_size=40)
STOPS = st.lists(st.text(alphabet="abcé€😀", min_size=1, max_size=5), max_size=4).map(tuple)
CUTS = st.lists(st.integers(0, 200), max_size=30)


def stream(data: bytes, cuts: list[int], stop: tuple[str, ...]) -> tuple[list[str], bool]:
    """The pieces a client gets when ``data`` comes cut at ``cuts``, and whether a stop string ended it."""
    text = TextStream(stop)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [text.push(data[start:end]) for start, end in itertools.pairwise(edges)]
    return [*pieces, text.finish()], text.stopped


def cut_at_first_complete_stop(text: str, stop: tuple[str, ...]) -> str:
    """What it must be, character by character: the plain way that holds nothing back."""
    for end in range(len(text) + 1):
        starts = [end - len(one) for one in stop if text[:end].endswith(one)]
        if starts:
            return text[: min(starts)]
    return text


@given(TEXT, CUTS, STOPS)
@example("abcd", [1, 2, 3], ("abcd", "bc"))
@example("abcd", [], ("abcd", "bc"))
@example("aab", [1], ("ab",))
def test_the_pieces_joined_are_the_text_up_to_the_stop_string_that_is_complete_first(text, cuts, stop):
    pieces, stopped = stream(text.encode(), cuts, stop)
    expected = cut_at_first_complete_stop(text, stop)
    assert "".join(pieces) == expected
    assert stopped == (expected != text or any(one in text for one in stop))


@given(TEXT, CUTS)
def test_no_piece_breaks_a_code_point(text, cuts):
    pieces, _ = stream(text.encode(), cuts, ())
    assert all("�" not in piece for piece in pieces)
    for piece in pieces:
        piece.encode()


@given(TEXT, CUTS, STOPS)
def test_no_piece_shows_a_stop_string_or_the_part_of_it_that_was_there(text, cuts, stop):
    pieces, stopped = stream(text.encode(), cuts, stop)
    shown = "".join(pieces)
    assert not any(one in shown for one in stop)
    if stopped:
        assert any(text[len(shown) :].startswith(one) for one in stop)


@given(st.binary(max_size=60), CUTS, STOPS)
def test_bytes_that_are_no_text_become_replacement_characters_whatever_the_cuts(data, cuts, stop):
    pieces, _ = stream(data, cuts, stop)
    assert "".join(pieces) == cut_at_first_complete_stop(data.decode("utf-8", "replace"), stop)


@given(TEXT, STOPS)
def test_what_is_held_back_is_less_than_the_longest_stop_string(text, stop):
    reader = TextStream(stop)
    shown = 0
    for number, character in enumerate(text, 1):
        shown += len(reader.push(character.encode()))
        if not reader.stopped:
            assert number - shown < max((len(one) for one in stop), default=1)


def test_nothing_comes_after_the_stop():
    text = TextStream(("STOP",))
    assert text.push(b"one STOP two") == "one "
    assert text.push(b"three") == ""
    assert text.finish() == ""
    assert text.stopped


def test_a_code_point_that_never_ends_is_replaced_at_the_end():
    text = TextStream()
    assert text.push("é".encode()[:1]) == ""
    assert text.finish() == "�"


def test_a_beginning_of_a_stop_string_is_given_out_when_the_answer_ends_there():
    text = TextStream(("</answer>",))
    assert text.push(b"yes </ans") == "yes "
    assert text.finish() == "</ans"
    assert not text.stopped
