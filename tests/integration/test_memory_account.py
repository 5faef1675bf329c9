"""The worker's account of its memory agrees with what the kernel sees."""

from __future__ import annotations

import asyncio

import pytest

from edgectl.models.replica import write_replica
from edgectl.models.replica_plan import plan_replica
from edgectl.planning.catalog import load_catalog
from edgectl.planning.dryrun import EngineSettings, Stopped, dry_run
from edgectl.probe import cpuinfo
from edged.api.events import Finished
from edged.api.measuring import Workload
from edged.host.procfs import ROOT, anon_bytes
from tests.kit.model import smollm2, smollm2_tree
from tests.kit.service import running_service, until

pytestmark = pytest.mark.model
AGREEMENT = 0.05
MIB = 1 << 20


def account_and_kernel(tree, folder):
    """The account of a worker that has had work for every slot, and its anonymous memory."""
    model = tree["model"]

    async def ask(box, number):
        words = f"{number} " + "word " * model["ubatch"]
        answer = await box.ask(words, client=f"c{number}", max_tokens=12)
        assert isinstance(answer, Finished), answer

    async def scenario():
        async with running_service(tree, folder) as box:
            await asyncio.gather(*(ask(box, number) for number in range(model["slots"] + 1)))
            for _ in range(2):  # the first may have been on its way when the last answer came
                beat = box.engine._beat
                await until(lambda seen=beat: box.engine._beat is not seen, "a heartbeat")
            return box.service.status().memory.parts, anon_bytes(box.engine.worker_pid)

    return asyncio.run(asyncio.wait_for(scenario(), 150))


@pytest.mark.parametrize(
    ("model", "cache_mib"),
    [
        ({"context": 256, "slots": 1}, 0),
        ({"context": 1024, "slots": 4}, 0),
        ({"context": 1024, "slots": 4, "kv_type": "q8_0"}, 0),
        ({"context": 512, "slots": 2, "ubatch": 256}, 0),
        ({"context": 512, "slots": 2, "mmap": False}, 0),
        ({"context": 512, "slots": 2}, 64),
    ],
)
def test_the_account_of_a_worker_at_work_is_what_the_kernel_sees(tmp_path, model, cache_mib):
    tree = smollm2_tree(model={"ubatch": 64, **model}, memory={"cache_mib": cache_mib})
    parts, measured_bytes = account_and_kernel(tree, tmp_path)
    assert parts.anon_bytes == pytest.approx(measured_bytes, rel=AGREEMENT)
    assert parts.kv_bytes > 0
    assert (parts.mapped_bytes > 0) == model.get("mmap", True)
    assert (parts.weights_bytes > 80 * MIB) == (not model.get("mmap", True))
    assert (parts.cache_bytes > MIB) == bool(cache_mib)


def hybrid_replica(folder):
    """Qwen3.5-0.8B's shapes, four layers of them."""
    entry, file = load_catalog().find("qwen3.5-0.8b:Q4_K_M")
    path = folder / "replica.gguf"
    write_replica(path, plan_replica(entry.arch, entry.geometry, file.quant, context_tokens=1024, layers=4))
    return path


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_recurrent_state_is_on_the_account(tmp_path, cache_mib):
    model = {"path": str(hybrid_replica(tmp_path)), "context": 512, "slots": 4, "ubatch": 64}
    model |= {"repack": "off", "threads": 2}
    tree = {"node": "box", "model": model, "memory": {"cache_mib": cache_mib}}
    parts, measured_bytes = account_and_kernel(tree, tmp_path)
    assert parts.anon_bytes == pytest.approx(measured_bytes, rel=AGREEMENT)
    assert parts.state_bytes > 8 * MIB
    assert (parts.cache_bytes > MIB) == bool(cache_mib)


def test_drafts_are_on_the_account(tmp_path):
    tree = smollm2_tree(
        model={"ubatch": 64, "context": 512, "slots": 2, "speculate": "on"}, memory={"cache_mib": 0}
    )
    parts, measured_bytes = account_and_kernel(tree, tmp_path)
    assert parts.anon_bytes == pytest.approx(measured_bytes, rel=AGREEMENT)


def test_repacked_weights_are_on_the_account(tmp_path):
    try:
        dry_run(
            smollm2(),
            EngineSettings(context=256, slots=1, ubatch=64, threads=1, repack=True),
            (Workload(depth=64),),
        )
    except Stopped as error:
        if error.reason == "lost" and "amx_int8" in cpuinfo.flags(cpuinfo.blocks(ROOT)[0]):
            pytest.skip(f"this host promises AMX and does not deliver: {error.message}")
        raise
    tree = smollm2_tree(
        model={"ubatch": 64, "context": 512, "slots": 2, "repack": "on"}, memory={"cache_mib": 0}
    )
    parts, measured_bytes = account_and_kernel(tree, tmp_path)
    assert parts.anon_bytes == pytest.approx(measured_bytes, rel=AGREEMENT)
    assert parts.weights_bytes > 40 * MIB
