"""The storage that the model store lies on: its class, size, and whether it can be written."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from edgectl.device import Note, Storage
from edgectl.probe.blockdevice import medium, mount_of
from edged.host.files import read_text
from edged.host.procfs import ROOT

# Recorded trees carry sizes in this file, one "<mount point> <total bytes> <free bytes>" a line.
RECORDED_SIZES = "statvfs.txt"


class Space(Struct, frozen=True):
    """Sizes of a file system; ``free_bytes`` is what an ordinary user may still write."""

    total_bytes: int
    free_bytes: int
    read_only: bool


def probe(root: Path, path: Path) -> tuple[Storage, tuple[Note, ...]]:
    """The storage of ``path``, or of its nearest parent that exists."""
    place = nearest_existing(root, path)
    mount = mount_of(root, place)
    space = _space(root, place, mount.point if mount else "/")
    kind, device = medium(root, mount) if mount else ("unknown", "")
    record = Storage(
        path=str(place),
        kind=kind,
        device=device,
        filesystem=mount.filesystem if mount else "unknown",
        total_bytes=space.total_bytes if space else 0,
        free_bytes=space.free_bytes if space else 0,
        read_only=(space is not None and space.read_only) or (mount is not None and "ro" in mount.options),
    )
    if space is not None:
        return record, ()
    return record, (Note(code="storage-size-unknown", message=f"the free space of {place} cannot be read"),)


def nearest_existing(root: Path, path: Path) -> Path:
    """``path`` without links, cut down to what exists under ``root``."""
    place = path.resolve() if root == ROOT else Path("/") / path
    while place != place.parent and not (root / str(place).lstrip("/")).exists():
        place = place.parent
    return place


def _space(root: Path, place: Path, point: str) -> Space | None:
    if root != ROOT:
        return _recorded_space(root, point)
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    read_only = bool(found.f_flag & os.ST_RDONLY)
    return Space(found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail, read_only)


def _recorded_space(root: Path, point: str) -> Space | None:
    for line in (read_text(root / RECORDED_SIZES) or "").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == point and words[1].isdecimal() and words[2].isdecimal():
            return Space(int(words[1]), int(words[2]), read_only=False)
    return None
