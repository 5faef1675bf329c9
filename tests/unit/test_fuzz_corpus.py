"""What the fuzzers began with and what they found stays handled: every input of the corpus is replayed."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.fuzz.gguf_header import CORPUS, check

INPUTS = sorted(CORPUS.iterdir())
MOST_CORPUS_BYTES = 200_000  # it is in every clone
MOST_MEMORY_BYTES = 4 << 20  # inputs have a few KiB; what they claim must not be believed


def test_the_corpus_is_there_and_small():
    assert len(INPUTS) > 60
    assert sum(path.stat().st_size for path in INPUTS) < MOST_CORPUS_BYTES


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_every_input_ends_in_a_header_or_an_integrity_error_in_bounded_memory(path):
    data = path.read_bytes()
    check(data)  # what is imported and cached by the first reading is not the input's
    tracemalloc.start()
    try:
        check(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "path",
    [path for path in INPUTS if path.name.split("-")[0] in ("valid", "hostile")],
    ids=lambda path: path.name,
)
def test_inputs_named_valid_are_read_and_those_named_hostile_are_not(path):
    assert check(path.read_bytes()) is path.name.startswith("valid")
