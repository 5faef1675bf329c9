"""Which tokens of a vocabulary an answer with a form may go on with."""

from __future__ import annotations

import numpy as np
import pytest

from edged.worker.backends.llama_sampler import _allowed


@pytest.mark.parametrize("wanted", [0, 255, 256, 4096, 9_999])
def test_the_one_allowed_token_is_found_among_equals(wanted):
    logits = np.zeros(10_000, dtype=np.float32)
    assert _allowed(logits, lambda token: token == wanted).tolist() == [wanted]


def test_of_likely_tokens_those_that_are_allowed_come_first():
    logits = np.arange(10_000, dtype=np.float32)
    assert _allowed(logits, lambda token: token % 100 == 0).tolist() == [9900, 9800]
