from __future__ import annotations

import os

import pytest

from edged.host.cpus import compute_threads, fast_cpus
from tests.devices.recorded import build


@pytest.mark.parametrize(
    ("board", "cpus", "fast", "threads"),
    [
        ("rock5b", range(8), (4, 5, 6, 7), 4),  # big.LITTLE, one pair of big cores binned lower
        ("rock5b", (0, 1, 5), (5,), 1),  # the process is allowed one big core
        ("rock5b", range(3), (0, 1, 2), 3),  # and here only little ones
        ("pi5-8gb", range(4), (0, 1, 2, 3), 4),
        ("n100", range(4), (0, 1, 2, 3), 4),
    ],
)
def test_the_fast_cluster_of_a_board_computes(tmp_path, board, cpus, fast, threads):
    root = build(board, tmp_path)
    assert fast_cpus(cpus, root) == fast
    assert compute_threads(fast, root) == threads


def test_cores_that_turbo_a_little_higher_are_no_cluster_of_their_own(tmp_path):
    for cpu, khz in enumerate((5_000_000, 5_000_000, 4_600_000, 3_600_000)):
        place = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        place.mkdir(parents=True)
        (place / "cpuinfo_max_freq").write_text(f"{khz}\n")
    assert fast_cpus(range(4), tmp_path) == (0, 1, 2)


def test_hardware_threads_of_one_core_count_once(tmp_path):
    for cpu in range(4):
        place = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    assert compute_threads(range(4), tmp_path) == 2


def test_a_kernel_that_tells_nothing_leaves_all_cpus(tmp_path):
    assert fast_cpus((2, 0, 1), tmp_path) == (0, 1, 2)
    assert compute_threads((0, 1, 2), tmp_path) == 3


def test_this_process_may_compute_on_what_it_is_allowed():
    assert set(fast_cpus()) <= os.sched_getaffinity(0)
    assert 1 <= compute_threads() <= len(os.sched_getaffinity(0))
