"""Memory, swap, and the limits that control groups put on it."""

from __future__ import annotations

from pathlib import Path

from edgectl.device import Memory, Note, Swap, SwapKind
from edgectl.probe.blockdevice import classify, disk_name, lowest_disk, medium, mount_of
from edged.host import cgroup, pressure, procfs
from edged.host.files import read_text


def probe(root: Path) -> tuple[Memory, tuple[Note, ...]]:
    """Memory, and a note when /proc/meminfo cannot be read (then sizes are 0)."""
    notes: tuple[Note, ...] = ()
    try:
        info = procfs.meminfo(root)
    except OSError:
        info = procfs.MemInfo(0, 0, 0, 0)
        notes = (
            Note(
                code="meminfo-unreadable",
                message="/proc/meminfo cannot be read, so no model can be planned",
                hint="mount /proc and run this again",
            ),
        )
    limit = cgroup.memory_limit(root)
    # A limit above the computer's memory limits nothing.
    real = (
        limit
        if limit is not None and (not info.total_bytes or limit.limit_bytes < info.total_bytes)
        else None
    )
    memory = Memory(
        total_bytes=info.total_bytes,
        available_bytes=info.available_bytes,
        swap=Swap(
            kind=_swap_kind(root) if info.swap_total_bytes else "none",
            total_bytes=info.swap_total_bytes,
            free_bytes=info.swap_free_bytes,
        ),
        cgroup_version=cgroup.memory_version(root),
        cgroup_limit_bytes=real.limit_bytes if real else None,
        cgroup_available_bytes=real.available_bytes if real else None,
        memory_cgroup=cgroup.memory_controller(root),
        psi=pressure.memory_pressure(root) is not None,
    )
    return memory, notes


def _swap_kind(root: Path) -> SwapKind:
    """The kind that hurts most of those in use: an SD card, then any other disk, then zram."""
    kinds = {_kind_of(root, line.split()) for line in (read_text(root / "proc/swaps") or "").splitlines()[1:]}
    order: tuple[SwapKind, ...] = ("sd", "disk", "zram")
    return next((kind for kind in order if kind in kinds), "disk")


def _kind_of(root: Path, words: list[str]) -> SwapKind:
    if len(words) < 2:
        return "disk"
    path = Path(words[0])
    if path.name.startswith("zram"):
        return "zram"
    if words[1] == "partition":
        return "sd" if classify(root, lowest_disk(root, disk_name(root, path.name))) == "sd" else "disk"
    mount = mount_of(root, path)
    return "sd" if mount and medium(root, mount)[0] == "sd" else "disk"
