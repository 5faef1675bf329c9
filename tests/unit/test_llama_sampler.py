"""Which tokens of a vocabulary an answer with a form may go on with."""

from __future__ import annotations

import numpy as np
import pytest

from edged.worker.backends.beginnings import Beginnings
from edged.worker.backends.llama_sampler import _allowed

VOCABULARY = Beginnings([*(bytes([byte]) for byte in range(256)), *[b"ab"] * 9744])


@pytest.mark.parametrize("wanted", [0, 255, 256, 4096, 9_999])
def test_the_one_allowed_token_is_found_among_equals(wanted):
    logits = np.zeros(10_000, dtype=np.float32)
    assert _allowed(logits, lambda token: token == wanted, 1, VOCABULARY).tolist() == [wanted]


def test_of_likely_tokens_those_that_are_allowed_come_first():
    logits = np.arange(10_000, dtype=np.float32)
    assert _allowed(logits, lambda token: token % 100 == 0, 9, VOCABULARY).tolist() == [9900, 9800]


def test_no_more_are_looked_for_than_are_enough():
    logits = np.arange(10_000, dtype=np.float32)
    asked = []
    found = _allowed(logits, lambda token: asked.append(token) or token % 100 == 0, 1, VOCABULARY)
    assert found.tolist() == [9900]
    assert len(asked) == 100


def test_deep_in_the_vocabulary_only_tokens_that_begin_right_are_tried():
    logits = np.arange(10_000, dtype=np.float32)
    asked = []
    found = _allowed(logits, lambda token: asked.append(token) or token == 98, 1, VOCABULARY)
    assert found.tolist() == [98]  # the byte "b": 9,744 likelier tokens begin with "a"
    assert len(asked) < 600
