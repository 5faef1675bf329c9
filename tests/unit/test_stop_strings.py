"""Stop strings never show, however the text is cut into pieces."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from edged.worker.text import StopStrings

# Few letters, so that stop strings overlap each other and themselves.
TEXT = st.text(alphabet="aabbc é€😀", max_size=40)
STOPS = st.lists(st.text(alphabet="abcé€😀", min_size=1, max_size=5), max_size=4).map(tuple)
CUTS = st.lists(st.integers(0, 200), max_size=30)


def stream(text: str, cuts: list[int], stop: tuple[str, ...]) -> tuple[list[str], bool]:
    """The pieces a client gets when ``text`` comes cut at ``cuts``, and whether a stop string ended it."""
    reader = StopStrings(stop)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [reader.push(text[start:end]) for start, end in itertools.pairwise(edges)]
    return [*pieces, reader.finish()], reader.stopped


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
    pieces, stopped = stream(text, cuts, stop)
    expected = cut_at_first_complete_stop(text, stop)
    assert "".join(pieces) == expected
    assert stopped == (expected != text or any(one in text for one in stop))


@given(TEXT, CUTS, STOPS)
def test_no_piece_shows_a_stop_string_or_the_part_of_it_that_was_there(text, cuts, stop):
    pieces, stopped = stream(text, cuts, stop)
    shown = "".join(pieces)
    assert not any(one in shown for one in stop)
    if stopped:
        assert any(text[len(shown) :].startswith(one) for one in stop)


@given(TEXT, STOPS)
def test_what_is_held_back_is_less_than_the_longest_stop_string(text, stop):
    reader = StopStrings(stop)
    shown = 0
    for number, character in enumerate(text, 1):
        shown += len(reader.push(character))
        if not reader.stopped:
            assert number - shown < max((len(one) for one in stop), default=1)


def test_nothing_comes_after_the_stop():
    reader = StopStrings(("STOP",))
    assert reader.push("one STOP two") == "one "
    assert reader.push("three") == ""
    assert reader.finish() == ""
    assert reader.stopped


def test_a_beginning_of_a_stop_string_is_given_out_when_the_answer_ends_there():
    reader = StopStrings(("</answer>",))
    assert reader.push("yes </ans") == "yes "
    assert reader.finish() == "</ans"
    assert not reader.stopped
