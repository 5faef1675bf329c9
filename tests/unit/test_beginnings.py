"""A search through a vocabulary by first bytes leaves out what cannot be right, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.worker.backends.beginnings import Beginnings

SINGLE = [bytes([byte]) for byte in range(256)]


def begins_right(pieces: list[bytes], wanted: bytes):
    return lambda token: bool(pieces[token]) and (wanted.startswith(pieces[token]))


@given(
    st.lists(st.binary(max_size=4), min_size=1, max_size=60), st.binary(min_size=1, max_size=6), st.booleans()
)
def test_every_token_that_is_allowed_is_possible(pieces, wanted, has_bytes):
    pieces += SINGLE if has_bytes else []
    allows = begins_right(pieces, wanted)
    possible = {int(token) for token in Beginnings(pieces).possible(allows)}
    assert {token for token in range(len(pieces)) if allows(token)} <= possible


def test_tokens_that_begin_otherwise_are_left_out():
    pieces = [*SINGLE, b"count", b"ice", b"c", b"", b"citrus"]
    possible = Beginnings(pieces).possible(begins_right(pieces, b"count"))
    assert {pieces[int(token)] for token in possible} == {b"c", b"count", b"citrus", b""}


def test_what_stands_for_no_bytes_stays_possible_since_it_may_end_the_answer():
    pieces = [*SINGLE, b""]
    possible = Beginnings(pieces).possible(lambda token: token == len(pieces) - 1)
    assert [int(token) for token in possible] == [len(pieces) - 1]


def test_a_byte_without_a_token_of_its_own_rules_nothing_out():
    pieces = [b"ab", b"cd"]
    assert sorted(int(token) for token in Beginnings(pieces).possible(lambda token: token == 1)) == [0, 1]
