"""Replicas take no space, leave nothing behind, and are models to the engine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl.errors import NoSpace, StorageFailed
from edgectl.models import replica as replica_module
from edgectl.models.gguf import read_header, read_model
from edgectl.models.replica import replica, write_replica
from edgectl.models.replica_plan import TOKENIZER_ARRAYS, plan_replica, replica_of_header
from edgectl.planning.catalog import load_catalog
from edgectl.probe.blockdevice import MEMORY_FILESYSTEMS, mount_of
from edged.engine.process import Worker
from edged.host.procfs import ROOT, process_memory
from edged.ipc.messages import EngineOptions, Load, Measure
from tests.kit.model import smollm2
from tests.kit.tiny_network import large_plan, tiny_network

MIB = 1 << 20
OPTIONS = EngineOptions(context=256, slots=1, ubatch=64, threads=2, repack=False)


@pytest.fixture
def folder(tmp_path):
    """A folder on a disk."""
    mount = mount_of(ROOT, tmp_path.resolve())
    if mount is not None and mount.filesystem in MEMORY_FILESYSTEMS:
        pytest.skip("pytest's temporary folder is in memory; give --basetemp on a disk")
    return tmp_path


def test_a_replica_has_the_full_size_and_takes_next_to_nothing(folder):
    plan = large_plan()
    with replica(plan, folder) as path:
        figures = path.stat()
        assert figures.st_size == len(plan.header()) + plan.weights_bytes > 500 * MIB
        assert figures.st_blocks * 512 < MIB
        assert read_model(path).tensor_bytes > 500 * MIB
    assert list(folder.iterdir()) == []


def test_the_folder_is_made_when_it_is_missing(folder):
    with replica(large_plan(), folder / "new" / "one") as path:
        assert path.parent == folder / "new" / "one"


def test_a_replica_is_gone_after_an_error(folder):
    with pytest.raises(RuntimeError, match="elsewhere"), replica(large_plan(), folder):
        raise RuntimeError("elsewhere")
    assert list(folder.iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from edgectl.models.replica import replica
from tests.kit.tiny_network import large_plan
with replica(large_plan(), Path(sys.argv[1])) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


def hold_replica(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return holder, Path(holder.stdout.readline().strip())


def end(holder):
    holder.stdin.close()
    holder.stdout.close()
    holder.wait(30)


def test_a_ctrl_c_leaves_nothing(folder):
    holder, path = hold_replica(folder)
    try:
        assert path.is_file()
        holder.send_signal(signal.SIGINT)
        holder.wait(30)
    finally:
        end(holder)
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_uses_is_not(folder):
    killed, left = hold_replica(folder)
    living, used = hold_replica(folder)
    try:
        killed.kill()
        killed.wait(30)
        assert left.is_file()
        (folder / "replica-of-mine.gguf").touch()
        with replica(large_plan(), folder):
            assert not left.exists()
            assert used.is_file()
            assert (folder / "replica-of-mine.gguf").is_file()
    finally:
        end(killed)
        end(living)


def test_a_replica_that_is_written_to_stay_stays_alone(folder):
    write_replica(folder / "model.gguf", large_plan())
    assert [path.name for path in folder.iterdir()] == ["model.gguf"]
    assert read_header(folder / "model.gguf").architecture == "llama"


def test_a_file_system_in_memory_is_refused():
    mount = mount_of(ROOT, Path("/dev/shm"))
    if mount is None or mount.filesystem not in MEMORY_FILESYSTEMS or not os.access("/dev/shm", os.W_OK):
        pytest.skip("no file system in memory at /dev/shm")
    with pytest.raises(StorageFailed, match="in memory"), replica(large_plan(), Path("/dev/shm")):
        pass
    assert not list(Path("/dev/shm").glob(f".edged-replica-{os.getpid()}-*"))


def test_a_file_system_that_fills_holes_is_refused(folder):
    full = folder / "full"
    full.write_bytes(b"\1" * (17 * MIB))  # what such a file system makes of a hole
    with full.open("r+b") as file, pytest.raises(StorageFailed, match="keeps no holes"):
        replica_module._check_holes(file.fileno(), full, MIB)


def test_a_full_disk_is_noticed_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr("edgectl.models.storage.RESERVE_BYTES", 1 << 62)
    with pytest.raises(NoSpace, match="weightless replica"), replica(large_plan(), folder):
        pass
    assert list(folder.iterdir()) == []


def measured(path: Path):
    """(what the worker measured, its memory) for the model at ``path``, in the real engine."""

    async def scenario():
        worker = await Worker.spawn(lambda _pid: None)
        try:
            load = Load(path=str(path), backend="llama", options=OPTIONS)
            await worker.load(load, load_timeout_s=90, hang_timeout_s=60)
            memory = process_memory(worker.pid)
            order = Measure(depth=64, prefill_tokens=64, decode_steps=8)
            return await worker.measure(order, limit_s=60, hang_timeout_s=60), memory
        finally:
            await worker.kill()

    return asyncio.run(asyncio.wait_for(scenario(), 150))


@pytest.mark.model
@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen3", "qwen35", "qwen35moe"])
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0"])
def test_the_engine_decodes_a_tiny_replica_of_every_architecture(folder, arch, quant):
    with replica(plan_replica(arch, tiny_network(arch), quant, context_tokens=1024), folder) as path:
        figures, _ = measured(path)
    assert figures.decode_tps > 0
    assert figures.prefill_tps > 0


@pytest.mark.model
def test_the_engine_maps_all_weights_of_a_shallow_qwen35_and_decodes(folder):
    entry = load_catalog().model("qwen3.5-0.8b")
    plan = plan_replica(entry.arch, entry.geometry, "Q4_K_M", context_tokens=262_144, layers=4)
    with replica(plan, folder) as path:
        figures, memory = measured(path)
        assert path.stat().st_blocks * 512 < 16 * MIB
    assert figures.decode_tps > 0
    assert plan.weights_bytes <= memory.rss_file_bytes < plan.weights_bytes + 32 * MIB


@pytest.mark.model
def test_a_real_model_and_its_replica_take_the_same_memory(folder):
    plan = replica_of_header(read_header(smollm2(), keep=TOKENIZER_ARRAYS))
    with replica(plan, folder) as path:
        _, double = measured(path)
    _, real = measured(smollm2())
    assert double.rss_anon_bytes == pytest.approx(real.rss_anon_bytes, rel=0.02)
    assert double.rss_file_bytes == pytest.approx(real.rss_file_bytes, rel=0.03)
