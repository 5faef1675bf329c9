"""Reads control groups, version 1 and 2: where this process is, and what limits it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from edged.host.files import read_int, read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

Version = Literal[0, 1, 2]
# Version 1 writes "no limit" as the largest page-aligned count of bytes, just below 2^63.
UNLIMITED_BYTES = 1 << 60


class CgroupMount(Struct, frozen=True):
    """One mounted hierarchy: the cgroup shown at its mount point, and its controllers (version 1)."""

    version: Literal[1, 2]
    top: str
    point: str
    controllers: frozenset[str]


class MemoryLimit(Struct, frozen=True):
    """``limit_bytes`` is the tightest limit above a process, ``available_bytes`` what all of them leave."""

    limit_bytes: int
    available_bytes: int
    directory: Path


class Enforcer(Struct, frozen=True):
    """What kills or throttles this process when it takes too much memory."""

    kind: Literal["none", "cgroup1", "cgroup2"]
    limit_bytes: int | None = None
    directory: Path | None = None


def memory_version(root: Path = ROOT) -> Version:
    """The version whose memory controller counts here; 0 when no control group is mounted."""
    found = mounts(root)
    if any("memory" in mount.controllers for mount in found):
        return 1  # also in hybrid set-ups, where version 2 is mounted without controllers
    if any(mount.version == 2 for mount in found):
        return 2
    return 1 if found else 0


def memory_controller(root: Path = ROOT) -> bool:
    """Whether the kernel can enforce memory limits (Raspberry Pi OS switches that off by default)."""
    if memory_version(root) == 2:
        point = next(mount.point for mount in mounts(root) if mount.version == 2)
        controllers = read_text(root / point.lstrip("/") / "cgroup.controllers")
        if controllers is not None:
            return "memory" in controllers.split()
    for line in (read_text(root / "proc/cgroups") or "").splitlines():
        words = line.split()
        if len(words) == 4 and words[0] == "memory":
            return words[3] == "1"
    return any("memory" in mount.controllers for mount in mounts(root))


def own_directory(root: Path = ROOT, controller: str = "memory", pid: int | None = None) -> Path | None:
    """The directory of the process's cgroup (default: this process) in the hierarchy of ``controller``."""
    placed = _placed(root, controller, pid)
    return placed[1] if placed else None


def memory_limit(root: Path = ROOT, pid: int | None = None) -> MemoryLimit | None:
    """The limits over all ancestors; None when nothing limits the process."""
    tightest: tuple[int, Path] | None = None
    available_bytes = UNLIMITED_BYTES
    for version, directory in _ancestors(root, "memory", pid):
        limit_bytes = _limit(directory, version)
        if limit_bytes is None:
            continue
        tightest = min(tightest or (limit_bytes, directory), (limit_bytes, directory))
        available_bytes = min(available_bytes, limit_bytes - unreclaimable_bytes(directory, version))
    if tightest is None:
        return None
    return MemoryLimit(tightest[0], max(0, available_bytes), tightest[1])


def unreclaimable_bytes(directory: Path, version: Version = 2) -> int:
    """What a cgroup uses, less the page cache that the kernel gives back under pressure."""
    usage = read_int(directory / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
    prefix = "" if version == 2 else "total_"
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    reclaimable = 0
    for line in (read_text(directory / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in wanted and value.isdecimal():
            reclaimable += int(value)
    return max(0, usage - reclaimable)


def memory_enforcer(root: Path = ROOT, pid: int | None = None) -> Enforcer:
    """What enforces a memory limit on the process: a control group with a limit, or nothing."""
    limit = memory_limit(root, pid)
    if limit is None or not memory_controller(root):
        return Enforcer("none")
    kind: Literal["cgroup1", "cgroup2"] = "cgroup2" if memory_version(root) == 2 else "cgroup1"
    return Enforcer(kind, limit.limit_bytes, limit.directory)


def cpu_quota(root: Path = ROOT, pid: int | None = None) -> float | None:
    """CPUs' worth of time that the tightest quota above the process grants; None without one."""
    quotas = [
        quota for version, directory in _ancestors(root, "cpu", pid) if (quota := _quota(directory, version))
    ]
    return min(quotas, default=None)


def cpuset(root: Path = ROOT, pid: int | None = None) -> tuple[int, ...] | None:
    """The CPUs the process's cgroup may use; None when no cpuset says so."""
    for version, directory in _ancestors(root, "cpuset", pid):
        name = "cpuset.cpus.effective" if version == 2 else "cpuset.effective_cpus"
        cpus = parse_cpus(read_text(directory / name)) or parse_cpus(read_text(directory / "cpuset.cpus"))
        if cpus:
            return cpus
    return None


def parse_cpus(text: str | None) -> tuple[int, ...]:
    """The kernel's list format: "0-2,5" → (0, 1, 2, 5); empty for anything else."""
    cpus: list[int] = []
    for part in (text or "").split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return ()
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def mounts(root: Path = ROOT) -> list[CgroupMount]:
    """The cgroup lines of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found: list[CgroupMount] = []
    for line in (read_text(root / "proc/self/mountinfo", limit=1 << 20) or "").splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) < 6 or len(kind) < 2 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        options = frozenset(kind[-1].split(",")) if kind[0] == "cgroup" else frozenset[str]()
        found.append(CgroupMount(1 if kind[0] == "cgroup" else 2, place[3], place[4], options))
    return found


def _placed(root: Path, controller: str, pid: int | None) -> tuple[Literal[1, 2], Path, Path] | None:
    """(version, own directory, mount point) in the hierarchy that has ``controller``."""
    found = mounts(root)
    mount = next((item for item in found if controller in item.controllers), None)
    mount = mount or next((item for item in found if item.version == 2), None)
    if mount is None:
        return None
    point = root / mount.point.lstrip("/")
    for line in (read_text(root / f"proc/{pid or 'self'}/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        if (parts[1] == "") if mount.version == 2 else (controller in parts[1].split(",")):
            return mount.version, _below(point, mount.top, parts[2]), point
    return mount.version, point, point


def _below(point: Path, top: str, path: str) -> Path:
    """Where cgroup ``path`` shows when ``top`` is mounted at ``point``.

    In a container the mount may show only a part of the tree, or the path may lead outside it ("/../x");
    then the mount point itself is the nearest that can be read.
    """
    inside = path.removeprefix(top) if top != "/" and (path + "/").startswith(top.rstrip("/") + "/") else path
    if ".." in inside.split("/"):
        return point
    directory = point / inside.strip("/")
    return directory if directory.is_dir() else point


def _ancestors(root: Path, controller: str, pid: int | None) -> Iterator[tuple[Literal[1, 2], Path]]:
    """(version, directory) from the process's own cgroup up to the mount point."""
    placed = _placed(root, controller, pid)
    if placed is None:
        return
    version, directory, point = placed
    yield version, directory
    while directory != point:
        directory = directory.parent
        yield version, directory


def _limit(directory: Path, version: Version) -> int | None:
    # Above memory.high the kernel stalls the process in reclaim, so it bounds what is usable too.
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    limits = [value for name in names if (value := read_int(directory / name)) is not None]
    return min((value for value in limits if 0 < value < UNLIMITED_BYTES), default=None)


def _quota(directory: Path, version: Version) -> float | None:
    if version == 2:
        words = (read_text(directory / "cpu.max") or "").split()
        quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "0")
    else:
        quota = read_text(directory / "cpu.cfs_quota_us") or ""
        period = read_text(directory / "cpu.cfs_period_us") or ""
    if not quota.isdecimal() or not period.isdecimal() or int(quota) == 0 or int(period) == 0:
        return None
    return int(quota) / int(period)
