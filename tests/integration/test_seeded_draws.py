"""A request that draws by chance draws what it draws alone, whatever seeds and penalties others have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edged.api.requests import Sampling
from edged.ipc.messages import EngineOptions
from tests.kit.decoding import Stage, Watched, alone, asked, tokens
from tests.kit.random_model import random_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

pytestmark = pytest.mark.model

OPTIONS = EngineOptions(context=512, slots=8, ubatch=64, threads=2, repack=False)
SYSTEM = "You are the voice of a small box beside a machine. Say only what the readings show, in one line."
# What logits may differ by in a batch: only where chance fell so near the border of two tokens may they part.
TOLERANCE = 0.15
COUNT = 24
SAMPLINGS = (
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=1.0, seed=2),
    Sampling(temperature=1.5, seed=3, top_k=0, top_p=1.0, min_p=0.0),
    Sampling(temperature=0.3, seed=4, top_p=0.8),
    Sampling(temperature=0.8, seed=5, presence_penalty=1.5, top_k=20),
    Sampling(temperature=0.8, seed=6, frequency_penalty=0.7, repeat_penalty=1.2),
    Sampling(temperature=0.0, repeat_penalty=1.3),
    Sampling(temperature=1.2, seed=2**32 - 1, min_p=0.1, presence_penalty=-1.0),
)


class Rows(Watched):
    """Also keeps the logits that were drawn from."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.rows: dict[tuple[int, ...], list[np.ndarray]] = {}

    def sampler(self, sampling: Sampling, prompt: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        self.rows[tuple(prompt)] = []
        return super().sampler(sampling, prompt, *args, **kwargs)

    def sample(self, sampler: Any, row: int, *args: Any) -> int:
        self.rows[self._prompts[id(sampler)]].append(self.logits(row))
        return super().sample(sampler, row, *args)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    from edged.worker.backends.llama import load_llama

    loaded = load_llama(str(random_model(tmp_path_factory.mktemp("model"))), OPTIONS, lambda: None)
    yield Rows(loaded)
    loaded.close()


@pytest.mark.parametrize("cache_bytes", [0, 64 << 20])
def test_eight_with_their_own_seeds_and_penalties_each_draw_what_they_draw_alone(backend, cache_bytes):
    fields, prompts = zip(*(asked(backend, SYSTEM, f"{n}: {n * '7 bar, '}") for n in range(8)), strict=True)
    lone = [
        (
            tokens(alone(backend, prompt, COUNT, chunk=OPTIONS.ubatch, sampling=how)),
            backend.rows[tuple(prompt)],
        )
        for prompt, how in zip(prompts, SAMPLINGS, strict=True)
    ]
    stage = Stage(backend, OPTIONS, cache_bytes=cache_bytes)
    for key, (asks, how) in enumerate(zip(fields, SAMPLINGS, strict=True)):
        stage.start(key, sampling=how, max_tokens=COUNT, **asks)
        stage.turn()
    stage.play()
    parted = 0
    for prompt, (expected, expected_rows) in zip(prompts, lone, strict=True):
        said = tokens(backend.drawn.pop(tuple(prompt)))
        assert len(said) == len(expected) == COUNT
        same = next((n for n in range(COUNT) if said[n] != expected[n]), COUNT)
        parted += same < COUNT
        for ours, theirs in zip(backend.rows[tuple(prompt)][: same + 1], expected_rows, strict=False):
            assert abs(ours - theirs).max() < TOLERANCE
    assert parted <= 2
    assert len({tuple(expected) for expected, _ in lone}) == 8
