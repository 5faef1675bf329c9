"""What the fuzzers began with and what they found stays handled: every input of the corpus is replayed."""

from __future__ import annotations

import importlib
import tracemalloc

import pytest

from tests.fuzz.__main__ import CORPUS, TARGETS

INPUTS = sorted(path for path in CORPUS.glob("*/*"))
MOST_CORPUS_BYTES = 250_000  # it is in every clone
MOST_MEMORY_BYTES = 4 << 20  # inputs have a few KiB; what they claim must not be believed


def checked(path):
    return importlib.import_module(f"tests.fuzz.{path.parent.name}").check(path.read_bytes())


def named(path):
    return f"{path.parent.name}-{path.name}"


def test_the_corpus_is_there_and_small():
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
    assert len(INPUTS) > 120
    assert sum(path.stat().st_size for path in INPUTS) < MOST_CORPUS_BYTES


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_every_input_ends_as_its_reader_promises_in_bounded_memory(path):
    checked(path)  # what is imported and cached by the first reading is not the input's
    tracemalloc.start()
    try:
        checked(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "path", [path for path in INPUTS if path.name.split("-")[0] in ("valid", "hostile")], ids=named
)
def test_inputs_named_valid_are_taken_and_those_named_hostile_are_not(path):
    assert checked(path) is path.name.startswith("valid")
