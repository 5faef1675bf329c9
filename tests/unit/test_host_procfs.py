from __future__ import annotations

import os

import pytest

from edged.host import procfs

STATUS = """Name:\ted (ged)
State:\tS (sleeping)
VmSwap:\t     12 kB
RssAnon:\t    1000 kB
RssFile:\t     200 kB
RssShmem:\t       4 kB
Threads:\t7
"""


def put(root, place, text):
    file = root / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_meminfo_is_in_bytes(tmp_path):
    put(
        tmp_path,
        "proc/meminfo",
        "MemTotal: 2048 kB\nMemAvailable: 1024 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n",
    )
    assert procfs.meminfo(tmp_path) == procfs.MemInfo(2048 << 10, 1024 << 10, 8 << 10, 4 << 10)


def test_old_kernels_without_memavailable_fall_back_to_free_and_cache(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal: 2048 kB\nMemFree: 100 kB\nCached: 50 kB\n")
    assert procfs.meminfo(tmp_path).available_bytes == 150 << 10


def test_without_meminfo_nothing_is_made_up(tmp_path):
    with pytest.raises(OSError, match="is /proc mounted"):
        procfs.meminfo(tmp_path)


def test_process_memory_is_in_bytes(tmp_path):
    put(tmp_path, "proc/42/status", STATUS)
    memory = procfs.process_memory(42, tmp_path)
    assert memory == procfs.ProcessMemory(1000 << 10, 200 << 10, 4 << 10, 12 << 10, 7)
    assert memory.rss_bytes == 1204 << 10


def test_a_process_that_is_gone_has_no_memory_and_no_state(tmp_path):
    assert procfs.process_memory(42, tmp_path) is None
    assert procfs.process_state(42, tmp_path) is None


def test_a_zombie_has_no_memory(tmp_path):
    put(tmp_path, "proc/42/status", "Name:\tx\nState:\tZ (zombie)\nThreads:\t1\n")
    assert procfs.process_memory(42, tmp_path) is None


def test_the_state_is_found_behind_a_name_with_brackets_and_blanks(tmp_path):
    put(tmp_path, "proc/42/stat", "42 (a) b (c)) D 1 42 42 0 -1 4194304")
    assert procfs.process_state(42, tmp_path) == "D"


def test_this_process_is_seen_by_the_real_readers():
    assert procfs.meminfo().total_bytes > 1 << 20
    memory = procfs.process_memory(os.getpid())
    assert memory is not None
    assert memory.rss_anon_bytes > 1 << 20
    assert procfs.process_state(os.getpid()) == "R"
    assert len(procfs.boot_id() or "") == 36
