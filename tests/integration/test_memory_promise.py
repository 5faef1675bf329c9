"""What the plan says a model takes, against what the worker's process really has."""

from __future__ import annotations

import asyncio

import pytest

from edgectl.planning.catalog import find_file, load_catalog
from edgectl.planning.memory import estimate_memory, worker_budget_bytes
from edged.host.procfs import process_memory
from tests.kit.model import smollm2_tree
from tests.kit.service import running_service

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("context", "slots", "kv_type"), [(256, 1, "f16"), (512, 2, "f16"), (512, 2, "q8_0")]
)
def test_the_peak_of_the_worker_is_below_the_plan_and_not_far_below(tmp_path, context, slots, kv_type):
    model = {**smollm2_tree()["model"], "context": context, "slots": slots, "kv_type": kv_type, "ubatch": 64}
    entry = load_catalog().model("smollm2-135m-instruct")
    file = find_file(entry, "Q4_1")
    predicted = estimate_memory(
        entry.geometry,
        file.bytes,
        context_tokens=context,
        slots=slots,
        ubatch_tokens=64,
        kv_type=kv_type,
        parked_sequences=0,
    )

    async def scenario():
        async with running_service(smollm2_tree(model=model), tmp_path) as box:
            long = "word " * (context - 60)
            await asyncio.gather(*(box.ask(long, client=f"c{n}", max_tokens=20) for n in range(slots)))
            return process_memory(box.engine.worker_pid)

    measured = asyncio.run(asyncio.wait_for(scenario(), 120))
    anon_bytes = measured.rss_anon_bytes + measured.swap_bytes
    assert anon_bytes <= predicted.anon_bytes <= 1.25 * anon_bytes
    assert measured.rss_file_bytes <= predicted.weights_bytes + (
        32 << 20
    )  # shared libraries are file pages too
    assert anon_bytes < worker_budget_bytes(predicted)
