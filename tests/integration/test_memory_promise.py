"""What the plan says a model takes, against what the worker's process really has."""

from __future__ import annotations

import asyncio

import pytest

from edgectl.models.gguf import read_header
from edgectl.models.replica import write_replica
from edgectl.models.replica_plan import plan_replica
from edgectl.planning.catalog import find_file, load_catalog
from edgectl.planning.dryrun import EngineSettings, Stopped, dry_run
from edgectl.planning.header_memory import estimate_header_memory
from edgectl.planning.memory import estimate_memory, mapped_bytes, worker_budget_bytes
from edgectl.probe import cpuinfo
from edged.api.measuring import Workload
from edged.host.procfs import ROOT, process_memory
from tests.kit.model import smollm2, smollm2_tree
from tests.kit.service import running_service

pytestmark = pytest.mark.model
HIGHEST = 1.10  # a prediction is never below what is measured, and at most this much of it


@pytest.mark.parametrize(
    ("context", "slots", "kv_type"), [(256, 1, "f16"), (512, 2, "f16"), (512, 2, "q8_0")]
)
def test_a_service_at_work_stays_below_the_plan_and_not_far_below(tmp_path, context, slots, kv_type):
    model = {**smollm2_tree()["model"], "context": context, "slots": slots, "kv_type": kv_type, "ubatch": 64}
    entry = load_catalog().model("smollm2-135m-instruct")
    file = find_file(entry, "Q4_1")
    predicted = estimate_memory(
        entry.geometry,
        mapped_bytes(entry.geometry, file.bytes),
        context_tokens=context,
        slots=slots,
        ubatch_tokens=64,
        kv_type=kv_type,
    )

    async def scenario():
        # What is kept of prompts has a figure of its own in the plan, which this box would not fill.
        tree = smollm2_tree(model=model, memory={"cache_mib": 0})
        async with running_service(tree, tmp_path) as box:
            long = "word " * (context - 60)
            await asyncio.gather(*(box.ask(long, client=f"c{n}", max_tokens=20) for n in range(slots)))
            return process_memory(box.engine.worker_pid)

    measured = asyncio.run(asyncio.wait_for(scenario(), 120))
    anon_bytes = measured.rss_anon_bytes + measured.swap_bytes
    resident_bytes = anon_bytes + measured.rss_file_bytes
    assert resident_bytes <= predicted.worker_bytes <= HIGHEST * resident_bytes
    assert anon_bytes < worker_budget_bytes(predicted)


@pytest.mark.parametrize("repack", [False, True])
def test_a_replica_of_fewer_layers_takes_what_was_foretold(tmp_path, repack):
    entry, file = load_catalog().find("qwen3.5-0.8b:Q4_K_M")
    plan = plan_replica(entry.arch, entry.geometry, file.quant, context_tokens=4096, layers=4)
    shape = {"context": 1024, "slots": 2, "ubatch": 64}
    path = tmp_path / "replica.gguf"
    write_replica(path, plan)
    flags = cpuinfo.flags(cpuinfo.blocks(ROOT)[0]) if repack else ()
    predicted = estimate_header_memory(
        read_header(path), context_tokens=1024, slots=2, ubatch_tokens=64, repack_on=flags
    )
    try:
        run = dry_run(
            path,
            EngineSettings(**shape, threads=1, repack=repack),
            (Workload(depth=64, prefill_tokens=64), Workload(batch=2, decode_steps=1)),
        )
    except Stopped as error:
        if repack and error.reason == "lost" and "amx_int8" in flags:
            pytest.skip(f"this host promises AMX and does not deliver: {error.message}")
        raise
    assert run.peak.total_bytes <= predicted.worker_bytes <= HIGHEST * run.peak.total_bytes


def test_a_prompt_that_fills_the_context_adds_nothing_because_the_cache_is_written_at_once():
    settings = EngineSettings(context=512, slots=1, ubatch=64, threads=1, repack=False)
    short, full = (
        dry_run(smollm2(), settings, (Workload(depth=depth, decode_steps=1),)) for depth in (64, 500)
    )
    assert abs(full.peak.anon_bytes - short.peak.anon_bytes) < 1 << 20
