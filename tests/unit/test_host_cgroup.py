from __future__ import annotations

import pytest

from edged.host import cgroup
from tests.devices.recorded import build

MIB = 1 << 20
V2 = "31 23 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
V1_MEMORY = "32 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def put(root, files):
    for place, text in files.items():
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def v2(root, **files):
    """A version 2 tree with this process in system.slice/edged.service."""
    put(root, {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/system.slice/edged.service\n"})
    put(root, {"sys/fs/cgroup/cgroup.controllers": "cpu memory\n"})
    return put(root, {f"sys/fs/cgroup/{place}": text for place, text in files.items()})


SLICE, SERVICE = "system.slice", "system.slice/edged.service"


def test_the_tightest_limit_of_all_ancestors_counts(tmp_path):
    v2(tmp_path, **{f"{SERVICE}/memory.max": "max", f"{SLICE}/memory.max": f"{512 * MIB}"})
    put(tmp_path, {f"sys/fs/cgroup/{SLICE}/memory.current": f"{100 * MIB}"})
    limit = cgroup.memory_limit(tmp_path)
    assert limit == cgroup.MemoryLimit(512 * MIB, 412 * MIB, tmp_path / "sys/fs/cgroup" / SLICE)


def test_a_fuller_ancestor_with_a_wider_limit_decides_what_is_left(tmp_path):
    files = {
        f"{SERVICE}/memory.max": f"{500 * MIB}",
        f"{SERVICE}/memory.current": f"{10 * MIB}",
        f"{SLICE}/memory.max": f"{1000 * MIB}",
        f"{SLICE}/memory.current": f"{900 * MIB}",
    }
    limit = cgroup.memory_limit(v2(tmp_path, **files))
    assert limit is not None
    assert (limit.limit_bytes, limit.available_bytes) == (500 * MIB, 100 * MIB)


def test_page_cache_counts_as_available(tmp_path):
    stat = f"anon 1\ninactive_file {60 * MIB}\nactive_file {20 * MIB}\n"
    files = {f"{SERVICE}/memory.max": f"{200 * MIB}", f"{SERVICE}/memory.current": f"{100 * MIB}"}
    limit = cgroup.memory_limit(v2(tmp_path, **files, **{f"{SERVICE}/memory.stat": stat}))
    assert limit is not None
    assert limit.available_bytes == 180 * MIB


def test_the_throttling_limit_counts_as_a_limit(tmp_path):
    files = {f"{SERVICE}/memory.max": f"{200 * MIB}", f"{SERVICE}/memory.high": f"{150 * MIB}"}
    limit = cgroup.memory_limit(v2(tmp_path, **files))
    assert limit is not None
    assert limit.limit_bytes == 150 * MIB


def test_what_is_left_is_never_negative(tmp_path):
    files = {f"{SERVICE}/memory.max": f"{10 * MIB}", f"{SERVICE}/memory.current": f"{11 * MIB}"}
    limit = cgroup.memory_limit(v2(tmp_path, **files))
    assert limit is not None
    assert limit.available_bytes == 0


def test_a_limit_is_enforced_by_the_cgroup_that_has_it(tmp_path):
    v2(tmp_path, **{f"{SERVICE}/memory.max": f"{10 * MIB}"})
    directory = tmp_path / "sys/fs/cgroup" / SERVICE
    assert cgroup.memory_enforcer(tmp_path) == cgroup.Enforcer("cgroup2", 10 * MIB, directory)


def test_nothing_enforces_when_nothing_limits(tmp_path):
    v2(tmp_path, **{f"{SERVICE}/memory.max": "max"})
    assert cgroup.memory_enforcer(tmp_path) == cgroup.Enforcer("none")


def test_version_1_writes_no_limit_as_a_huge_number(tmp_path):
    files = {"proc/self/mountinfo": V1_MEMORY, "proc/self/cgroup": "4:memory:/a\n"}
    put(tmp_path, files | {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n"})
    assert cgroup.memory_limit(tmp_path) is None
    assert cgroup.memory_version(tmp_path) == 1


def test_in_a_hybrid_set_up_memory_is_version_1(tmp_path):
    files = {"proc/self/mountinfo": UNIFIED + V1_MEMORY, "proc/self/cgroup": "4:memory:/a\n0::/b\n"}
    put(tmp_path, files | {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{64 * MIB}\n"})
    assert cgroup.memory_version(tmp_path) == 1
    assert cgroup.memory_enforcer(tmp_path).kind == "cgroup1"


def test_without_mounts_there_is_nothing(tmp_path):
    assert cgroup.memory_version(tmp_path) == 0
    assert cgroup.own_directory(tmp_path) is None
    assert cgroup.memory_limit(tmp_path) is None
    assert cgroup.cpu_quota(tmp_path) is None
    assert not cgroup.memory_controller(tmp_path)


def test_raspberry_pi_os_has_no_memory_controller(tmp_path):
    assert not cgroup.memory_controller(build("pi5-8gb", tmp_path))
    assert cgroup.memory_controller(build("pi4-4gb", tmp_path))


@pytest.mark.parametrize("path", ["/../other", "/gone/away"])
def test_a_path_outside_the_mount_falls_back_to_the_mount_point(tmp_path, path):
    v2(tmp_path, **{"memory.max": f"{7 * MIB}"})
    put(tmp_path, {"proc/self/cgroup": f"0::{path}\n"})
    assert cgroup.own_directory(tmp_path) == tmp_path / "sys/fs/cgroup"


def test_a_container_without_its_own_namespace_reads_its_own_files(tmp_path):
    root = build("container-cgroup-v1-limit", tmp_path)
    assert cgroup.own_directory(root) == root / "sys/fs/cgroup/memory"
    assert cgroup.cpu_quota(root) == 1.5
    assert cgroup.cpuset(root) == (0, 1, 2, 3)


def test_another_process_is_found_by_its_pid(tmp_path):
    v2(tmp_path, **{"worker/memory.max": f"{5 * MIB}"})
    put(tmp_path, {"proc/77/cgroup": "0::/worker\n"})
    assert cgroup.own_directory(tmp_path, pid=77) == tmp_path / "sys/fs/cgroup/worker"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-2,5", (0, 1, 2, 5)), ("3", (3,)), ("", ()), (None, ()), ("a-b", ()), ("1-", (1,))],
)
def test_cpu_lists_are_read_as_the_kernel_writes_them(text, cpus):
    assert cgroup.parse_cpus(text) == cpus
