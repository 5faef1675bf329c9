"""Single facts that no recorded board shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.probe import network, probe_device, storage, system
from edgectl.probe.revision import decode_revision
from edgectl.probe.virtualization import hypervisor
from tests.devices.recorded import build

ROOT_ON_SDA = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def put(root, files):
    for place, text in files.items():
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.mark.parametrize(
    ("code", "kind", "revision", "processor", "memory_mib"),
    [
        (0xC03114, "4B", "1.4", "BCM2711", 4096),
        (0xD04170, "5", "1.0", "BCM2712", 8192),
        (0xE04171, "5", "1.1", "BCM2712", 16384),
        (0xD04190, "500", "1.0", "BCM2712", 8192),
        (0xB041A0, "CM5 Lite", "1.0", "BCM2712", 2048),
        (0xA02082, "3B", "1.2", "BCM2837", 1024),
        (0x902120, "Zero 2 W", "1.0", "BCM2837", 512),
    ],
)
def test_revision_codes_are_decoded(code, kind, revision, processor, memory_mib):
    found = decode_revision(code)
    assert found is not None
    assert (found.type, found.revision, found.processor) == (kind, revision, processor)
    assert (found.memory_mib, found.manufacturer) == (memory_mib, "Sony UK")


def test_a_voided_warranty_does_not_disturb_the_code():
    assert decode_revision(0x2A02082) == decode_revision(0xA02082)


def test_codes_of_the_first_boards_are_not_guessed():
    assert decode_revision(0x000E) is None


def test_boards_of_tomorrow_are_unknown_and_no_error():
    found = decode_revision(0xFFFFFF)
    assert found is not None
    assert (found.type, found.processor, found.manufacturer) == ("unknown", "unknown", "unknown")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"sys/block/sda/queue/rotational": "1"}, "hdd"),
        ({"sys/block/sda/queue/rotational": "0"}, "ssd"),
        ({"sys/block/sda/queue/rotational": "0", "sys/block/sda/device/vendor": "QEMU    "}, "virtual"),
        ({}, "unknown"),
    ],
)
def test_disks_are_told_apart(tmp_path, files, kind):
    disk = {"sys/block/sda/dev": "8:0", "sys/block/sda/sda1/dev": "8:1"}
    put(tmp_path, {"proc/self/mountinfo": ROOT_ON_SDA, **disk, **files})
    record, _ = storage.probe(tmp_path, Path("/"))
    assert (record.kind, record.device) == (kind, "sda")


def test_a_usb_disk_is_known_by_its_place_in_sys(tmp_path):
    device = "sys/devices/platform/scb/fd500000.pcie/usb2/2-1/block/sda"
    put(tmp_path, {"proc/self/mountinfo": ROOT_ON_SDA, f"{device}/dev": "8:0", f"{device}/sda1/dev": "8:1"})
    (tmp_path / "sys/block").mkdir()
    (tmp_path / "sys/block/sda").symlink_to(tmp_path / device)
    assert storage.probe(tmp_path, Path("/"))[0].kind == "usb"


def test_the_path_may_lie_on_another_mount_than_the_root(tmp_path):
    root = build("kvm-vm", tmp_path)
    assert storage.probe(root, Path("/mnt/a b/models"))[0].kind == "network"
    assert storage.probe(root, Path("/run/x/y"))[0].kind == "memory"
    codes = {note.code for note in probe_device(root, path=Path("/run/x/y")).notes}
    assert codes >= {"storage-volatile", "storage-size-unknown"}


def test_a_live_overlay_shows_the_disk_below(tmp_path):
    overlay = "26 25 0:40 / /data rw - overlay overlay rw,lowerdir=/ro,upperdir=/rw/up,workdir=/rw/work\n"
    put(tmp_path, {"proc/self/mountinfo": ROOT_ON_SDA + overlay, "sys/block/sda/dev": "8:0"})
    put(tmp_path, {"sys/block/sda/sda1/dev": "8:1", "sys/block/sda/queue/rotational": "0", "data/x": ""})
    assert storage.probe(tmp_path, Path("/data/x"))[0].kind == "ssd"


def test_a_read_only_mount_is_noted(tmp_path):
    root = build("pi4-4gb", tmp_path)
    table = root / "proc/self/mountinfo"
    table.write_text(table.read_text().replace("/ / rw,noatime", "/ / ro,noatime"))
    device = probe_device(root)
    assert device.storage.read_only
    assert "storage-read-only" in {note.code for note in device.notes}


def test_a_32_bit_userland_is_noted(tmp_path):
    put(tmp_path, {"bin/sh": b"\x7fELF\x01rest", "proc/sys/kernel/arch": "aarch64"})
    _, notes = system.probe(tmp_path)
    assert "64-bit" in {note.code: note.message for note in notes}["userland-32-bit"]


def test_the_default_route_with_the_least_metric_wins(tmp_path):
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
    wlan = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\n"
    eth = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\n"
    put(tmp_path, {"proc/net/route": head + wlan + eth})
    assert network.probe(tmp_path)[0].default_interface == "eth0"


def test_a_network_with_ipv6_alone_has_a_default_interface(tmp_path):
    zeros = "0" * 32
    route = f"{zeros} 00 {zeros} 00 fe80{'0' * 28} 00000400 00000001 00000000 00000003 wlan0\n"
    put(tmp_path, {"proc/net/ipv6_route": route})
    record, notes = network.probe(tmp_path)
    assert (record.default_interface, notes) == ("wlan0", ())


@pytest.mark.parametrize(
    ("vendor", "product", "expected"),
    [
        ("Amazon EC2", "t3.medium", "amazon"),
        ("Amazon EC2", "c5.metal", None),
        ("Microsoft Corporation", "Virtual Machine", "hyper-v"),
        ("Microsoft Corporation", "Surface Pro", None),
        ("innotek GmbH", "VirtualBox", "virtualbox"),
        ("Dell Inc.", "PowerEdge R240", None),
    ],
)
def test_virtual_machines_are_known_by_their_firmware(tmp_path, vendor, product, expected):
    put(tmp_path, {"sys/class/dmi/id/sys_vendor": vendor, "sys/class/dmi/id/product_name": product})
    assert hypervisor(tmp_path) == expected
