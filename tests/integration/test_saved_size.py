"""A saved sequence is as large as the plan says."""

from __future__ import annotations

import pytest

from edgectl.models.gguf import read_model
from edgectl.planning.cache import saved_bytes
from edgectl.planning.header_memory import geometry_of_header
from edged.ipc.messages import EngineOptions
from edged.worker.backends.base import Run
from edged.worker.backends.llama import load_llama
from tests.kit.model import gemma3, smollm2
from tests.kit.random_model import random_model

pytestmark = pytest.mark.model

FORETOLD = [("smollm2", "f16"), ("smollm2", "q8_0"), ("hybrid", "f16"), ("sliding window", "f16")]


@pytest.mark.parametrize(("model", "kv_type"), FORETOLD)
def test_the_plan_knows_how_large_a_saved_sequence_is(tmp_path, model, kv_type):
    path = {"smollm2": smollm2, "hybrid": lambda: random_model(tmp_path), "sliding window": gemma3}[model]()
    lengths = (320, 640) if model == "sliding window" else (64, 192)
    options = EngineOptions(context=1024, slots=1, ubatch=64, threads=2, kv_type=kv_type, repack=False)
    loaded = load_llama(str(path), options, lambda: None)
    try:
        token = loaded.tokenize("a")[-1]
        for end in range(64, lengths[-1] + 1, 64):
            loaded.step([Run(0, [token] * 64, end - 64, output=False)])
            if end in lengths:
                foretold = saved_bytes(geometry_of_header(read_model(path)), end, kv_type)
                assert foretold == pytest.approx(loaded.state_bytes(0), rel=0.06)
    finally:
        loaded.close()
