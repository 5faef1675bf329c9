"""What a path is stored on: from mount table to physical medium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.host.files import read_int, read_text

if TYPE_CHECKING:
    from edgectl.device import StorageClass

MOUNTINFO_LIMIT = 1 << 20  # a container host has thousands of mounts of about 150 bytes
MAX_LAYERS = 8  # file system on LUKS on LVM on RAID on a disk needs four
MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})
VIRTUAL_FILESYSTEMS = frozenset({"9p", "virtiofs", "vboxsf", "fuse.vmhgfs-fuse"})
NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "fuse.s3fs", "ceph", "glusterfs", "fuse.glusterfs")
VIRTUAL_DISK_VENDORS = frozenset({"qemu", "vbox", "vmware", "msft", "google", "amazon", "virtio"})
OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(Struct, frozen=True, kw_only=True):
    """One line of /proc/self/mountinfo; ``number`` is "major:minor"."""

    point: str
    filesystem: str
    source: str
    number: str
    options: frozenset[str]


def mount_of(root: Path, path: Path) -> Mount | None:
    """The mount that ``path`` lies on; of several on one place the last hides the others."""
    best: Mount | None = None
    for mount in mount_table(root):
        covers = path == Path(mount.point) or Path(mount.point) in path.parents
        if covers and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def mount_table(root: Path) -> list[Mount]:
    """/proc/self/mountinfo (proc_pid_mountinfo(5)); lines that make no sense are left out."""
    found: list[Mount] = []
    for line in (read_text(root / "proc/self/mountinfo", limit=MOUNTINFO_LIMIT) or "").splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) >= 6 and len(kind) >= 2:
            options = frozenset((place[5] + "," + kind[-1]).split(","))
            found.append(
                Mount(
                    point=_unescape(place[4]),
                    filesystem=kind[0],
                    source=_unescape(kind[1]),
                    number=place[2],
                    options=options,
                )
            )
    return found


def medium(root: Path, mount: Mount) -> tuple[StorageClass, str]:
    """(class, name of the disk) under ``mount``; the name is "" when there is none."""
    if mount.filesystem in MEMORY_FILESYSTEMS:
        return "memory", ""
    if mount.filesystem in VIRTUAL_FILESYSTEMS:
        return "virtual", mount.source
    if mount.filesystem.startswith(NETWORK_FILESYSTEMS):
        return "network", mount.source
    if mount.filesystem == "overlay":
        return _under_overlay(root, mount)
    disk = disk_of(root, mount.number, mount.source)
    if disk is None:
        return "unknown", mount.source
    disk = lowest_disk(root, disk)
    return classify(root, disk), disk


def disk_of(root: Path, number: str, source: str) -> str | None:
    """The name in /sys/block of the whole disk that has device ``number``, or is called ``source``."""
    blocks = root / "sys/block"
    for device in (*blocks.glob("*/dev"), *blocks.glob("*/*/dev")):
        if read_text(device) == number:
            return device.relative_to(blocks).parts[0]
    # btrfs and some others show an anonymous number; /dev/mapper names are links to dm-N.
    name = Path(source).name
    for entry in sorted(blocks.glob("*")):
        if name == entry.name or (entry / name).is_dir() or read_text(entry / "dm/name") == name:
            return entry.name
    return None


def lowest_disk(root: Path, disk: str) -> str:
    """The disk at the bottom of LVM, LUKS and RAID; of several the first by name."""
    for _ in range(MAX_LAYERS):
        below = sorted(path.name for path in (root / "sys/block" / disk / "slaves").glob("*"))
        if not below:
            break
        disk = disk_name(root, below[0])
    return disk


def classify(root: Path, disk: str) -> StorageClass:
    """The class of the physical or virtual disk ``disk`` of /sys/block."""
    entry = root / "sys/block" / disk
    if disk.startswith("mmcblk"):
        kind = read_text(entry / "device/type")
        return "sd" if kind == "SD" else "emmc" if kind == "MMC" else "unknown"
    by_name: tuple[tuple[str, StorageClass], ...] = (
        ("nvme", "nvme"), ("zram", "memory"), ("ram", "memory"), ("vd", "virtual"), ("xvd", "virtual"),
        ("nbd", "network"), ("rbd", "network"),
    )  # fmt: skip
    for prefix, kind_by_name in by_name:
        if disk.startswith(prefix):
            return kind_by_name
    if "/usb" in str(entry.resolve()):
        return "usb"
    if (read_text(entry / "device/vendor") or "").lower() in VIRTUAL_DISK_VENDORS:
        return "virtual"
    rotational = read_int(entry / "queue/rotational")
    return "unknown" if rotational is None else "hdd" if rotational else "ssd"


def disk_name(root: Path, device: str) -> str:
    """The whole disk of partition ``device`` ("sda1" → "sda"); ``device`` itself when it is one."""
    blocks = root / "sys/block"
    if (blocks / device).exists():
        return device
    return next((path.parent.name for path in blocks.glob(f"*/{device}")), device)


def _under_overlay(root: Path, mount: Mount) -> tuple[StorageClass, str]:
    """The medium of the writable layer, where this mount namespace can see it (not in a container)."""
    upper = next((o.removeprefix("upperdir=") for o in mount.options if o.startswith("upperdir=")), None)
    below = mount_of(root, Path(upper)) if upper else None
    if below is None or below.filesystem == "overlay":
        return "unknown", "overlay"
    return medium(root, below)


def _unescape(text: str) -> str:
    return OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
