"""A plausible computer made from a profile, to plan for a board that is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.device import Board, Cluster, Cpu, Device, Memory, Network, Note, Storage, Swap, System, Thermal
from edgectl.probe.profiles import DeviceProfile, find_profile

if TYPE_CHECKING:
    from edgectl.probe.profile_schema import BoardEntry, CpuEntry

GIB = 1 << 30


def planned_device(profile_id: str, profiles: tuple[DeviceProfile, ...] | None = None) -> Device:
    """The device that ``profile_id`` ("pi5-8gb") describes: a fresh headless system, nothing else running.

    Raises NotFound for an unknown id.
    """
    profile = find_profile(profile_id, profiles)
    entry = profile.board
    assumed = Note(
        code="planned-device",
        message=f"{profile.name} is described by its profile; nothing was measured",
        hint="run `edgectl probe` on the board itself for its real figures",
    )
    return Device(
        board=_board(entry, profile.memory_mib),
        cpu=_cpu(entry.cpu),
        memory=_memory(profile),
        storage=Storage(
            path="/var/lib/edged/models",
            kind=entry.storage.kind,
            device="",
            filesystem="ext4",
            total_bytes=entry.storage.total_gib * GIB,
            free_bytes=entry.storage.free_gib * GIB,
        ),
        thermal=Thermal(),
        system=System(
            os_id="debian",
            os_name="Debian GNU/Linux",
            kernel="",
            init="systemd",
            systemd=True,
            python="",
            libc="glibc",
        ),
        network=Network(hostname=profile.id),
        profile=profile.id,
        notes=(assumed, *profile.quirks),
    )


def _board(entry: BoardEntry, nominal_mib: int) -> Board:
    compatible = tuple(glob.rstrip("*-") for glob in entry.match.compatible)
    return Board(
        kind=entry.kind,
        vendor=entry.vendor,
        model=entry.name,
        nominal_memory_mib=nominal_mib,
        compatible=compatible,
    )


def _cpu(entry: CpuEntry) -> Cpu:
    clusters: list[Cluster] = []
    first = 0
    for cluster in entry.clusters:
        count = cluster.cpus * entry.threads_per_core
        clusters.append(
            Cluster(name=cluster.name, cpus=tuple(range(first, first + count)), max_mhz=cluster.max_mhz)
        )
        first += count
    cache_kib = entry.last_level_cache_kib
    return Cpu(
        arch=entry.arch,
        model=entry.model,
        physical_cores=first // entry.threads_per_core,
        logical_cpus=first,
        usable_cpus=float(first),
        features=tuple(sorted(entry.features)),
        clusters=tuple(clusters),
        last_level_cache_bytes=cache_kib << 10 if cache_kib else None,
    )


def _memory(profile: DeviceProfile) -> Memory:
    memory = profile.board.memory
    return Memory(
        total_bytes=memory.total_bytes(profile.memory_mib),
        available_bytes=memory.available_bytes(profile.memory_mib),
        swap=Swap(kind="none"),
        cgroup_version=2,
        memory_cgroup=True,
        psi=True,
    )
