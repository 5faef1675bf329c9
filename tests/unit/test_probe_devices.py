"""What probing says about each recorded board."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgectl.device import Device
from edgectl.probe import probe_device
from tests.devices.recorded import NAMES, build

GIB = 1 << 30


def codes(device):
    return {note.code for note in device.notes}


def test_a_raspberry_pi_4(tmp_path):
    device = probe_device(build("pi4-4gb", tmp_path))
    assert device.board.kind == "raspberry-pi"
    assert device.board.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert (device.board.revision, device.board.nominal_memory_mib) == ("c03114", 4096)
    assert (device.cpu.arch, device.cpu.model, device.cpu.usable_cpus) == ("aarch64", "Cortex-A72", 4.0)
    assert device.cpu.features == ("asimd",)
    assert (device.memory.memory_cgroup, device.memory.psi, device.memory.swap.kind) == (True, True, "sd")
    assert (device.storage.kind, device.storage.device, device.storage.path) == ("sd", "mmcblk0", "/")
    assert device.thermal.throttled == ()
    assert device.system.init == "systemd 252"
    assert device.network.default_interface == "eth0"
    assert device.profile == "pi4-4gb"
    assert codes(device) == {"swap-on-sd", "storage-sd", "no-dot-product"}


def test_a_raspberry_pi_5_with_a_phone_charger(tmp_path):
    device = probe_device(build("pi5-8gb", tmp_path))
    assert device.profile == "pi5-8gb"
    assert device.cpu.features == ("asimd", "asimddp", "fp16")
    assert device.cpu.last_level_cache_bytes == 2 << 20
    assert device.memory.cgroup_version == 2
    assert (device.memory.memory_cgroup, device.memory.psi, device.memory.swap.kind) == (False, False, "zram")
    assert device.thermal.throttled == ("under-voltage now", "throttled now")
    hints = {note.code: note.hint for note in device.notes}
    assert "cgroup_enable=memory cgroup_memory=1 psi=1" in hints["memory-cgroup-off"]
    assert hints.keys() >= {"memory-cgroup-off", "psi-off", "under-voltage", "throttled", "storage-sd"}


def test_a_rock_5b_held_on_its_big_cores(tmp_path):
    device = probe_device(build("rock5b", tmp_path))
    assert (device.board.kind, device.profile) == ("rockchip", "rock5b-16gb")
    big, little = device.cpu.clusters
    assert (big.name, big.cpus, big.max_mhz) == ("Cortex-A76", (4, 5, 6, 7), 2400)
    assert (little.name, little.cpus, little.max_mhz) == ("Cortex-A55", (0, 1, 2, 3), 1800)
    assert device.cpu.usable_cpus == 4.0
    assert (device.storage.kind, device.storage.filesystem) == ("emmc", "btrfs")
    assert device.thermal.zone == "bigcore0-thermal"
    assert codes(device) >= {"governor-slow", "cpu-limited"}


def test_an_n100_on_lvm_with_placeholders_for_a_name(tmp_path):
    device = probe_device(build("n100", tmp_path))
    assert (device.board.kind, device.board.vendor, device.board.model) == ("pc", "AZW", "EQ13")
    assert device.profile == "n100-16gb"
    assert (device.storage.kind, device.storage.device) == ("nvme", "nvme0n1")
    assert device.cpu.features == ("avx", "avx2", "avx_vnni", "f16c", "fma")
    assert device.memory.swap.kind == "disk"
    assert device.notes == ()  # powersave is the normal governor of a PC


def test_an_orin_nano_with_an_old_kernel(tmp_path):
    device = probe_device(build("orin-nano", tmp_path))
    assert (device.board.kind, device.board.vendor, device.profile) == ("jetson", "NVIDIA", "orin-nano")
    assert (device.cpu.arch, device.cpu.model) == ("aarch64", "Cortex-A78AE")
    assert codes(device) == {"jetson-cuda-build", "jetson-power-mode"}


def test_a_small_virtual_machine(tmp_path):
    device = probe_device(build("kvm-vm", tmp_path))
    assert (device.board.kind, device.system.virtualization) == ("virtual", "qemu")
    assert (device.cpu.arch, device.storage.kind, device.storage.device) == ("x86_64", "virtual", "vda")
    assert device.profile == "generic-x86_64"
    assert codes(device) == {"memory-tiny", "storage-small", "no-avx2"}


@pytest.mark.parametrize(
    ("name", "version", "limit", "available", "cpus", "kind"),
    [
        ("container-cgroup-v1-limit", 1, 2 * GIB, 3 * GIB // 2, 1.5, "docker"),
        ("container-cgroup-v2-limit", 2, 3 * GIB // 2, 9 * GIB // 8, 2.0, "podman"),
    ],
)
def test_a_container_sees_its_own_limits(tmp_path, name, version, limit, available, cpus, kind):
    device = probe_device(build(name, tmp_path))
    memory = device.memory
    assert memory.cgroup_version == version
    assert (memory.cgroup_limit_bytes, memory.cgroup_available_bytes) == (limit, available)
    assert memory.memory_cgroup
    assert device.cpu.usable_cpus == cpus
    assert device.system.virtualization == kind
    assert device.storage.kind == "unknown"  # the host's disk cannot be seen from inside
    assert codes(device) == {"cgroup-limit", "cpu-limited", "no-systemd"}


@pytest.mark.parametrize("name", NAMES)
def test_any_one_missing_file_costs_a_fact_at_most(tmp_path, name):
    root = build(name, tmp_path)
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    assert len(files) > 15
    for path in files:
        content = path.read_bytes()
        path.unlink()
        assert isinstance(probe_device(root), Device), path
        path.write_bytes(content)


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe\x00", b"- - -\n:::\n0::\n", b"max 0\n"])
def test_junk_in_any_one_file_is_never_an_error(tmp_path, junk):
    root = build("container-cgroup-v2-limit", tmp_path)
    for path in [path for path in sorted(root.rglob("*")) if path.is_file()]:
        content = path.read_bytes()
        path.write_bytes(junk)
        assert isinstance(probe_device(root), Device), path
        path.write_bytes(content)


def test_an_empty_tree_still_gives_a_device_and_says_what_is_missing(tmp_path):
    device = probe_device(tmp_path)
    assert device.memory.total_bytes == 0
    assert device.profile is None
    assert codes(device) >= {"meminfo-unreadable", "cpuinfo-unreadable", "board-unknown", "os-unknown"}


def test_this_computer_is_probed_without_an_error():
    device = probe_device()
    assert device.memory.total_bytes > 0
    assert device.cpu.logical_cpus >= device.cpu.physical_cores >= 1
    assert 0 < device.cpu.usable_cpus <= device.cpu.logical_cpus
    assert device.storage.total_bytes > 0
    assert Path(device.storage.path).exists()


def test_a_device_survives_its_json(tmp_path):
    device = probe_device(build("rock5b", tmp_path))
    assert msgspec.json.decode(msgspec.json.encode(device), type=Device) == device
