"""Puts a device into words: one name and a few lines a fact group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.output.terminal import size

if TYPE_CHECKING:
    from edgectl.device import Cluster, Cpu, Device, Memory, Storage, Thermal
    from edgectl.probe.profiles import DeviceProfile

STORAGE_WORDS = {
    "sd": "SD card", "emmc": "eMMC", "usb": "USB disk", "nvme": "NVMe disk", "ssd": "SSD", "hdd": "hard disk",
    "virtual": "virtual disk", "network": "network storage", "memory": "RAM disk",
    "unknown": "unknown storage",
}  # fmt: skip
# The other dozen parts of AVX-512 say nothing about inference; the JSON has them all.
AVX512_THAT_COUNT = frozenset({"avx512f", "avx512_vnni", "avx512_bf16"})
SWAP_WORDS = {"none": "no swap", "zram": "zram", "sd": "swap on an SD card", "disk": "swap on disk"}


def describe(device: Device, profile: DeviceProfile | None) -> list[tuple[str, list[str]]]:
    """(name of the group, its lines) in the order a person wants them."""
    return [
        ("Board", _board(device)),
        ("CPU", _cpu(device.cpu)),
        ("Memory", _memory(device.memory)),
        ("Storage", _storage(device.storage)),
        ("Heat", _thermal(device.thermal)),
        ("System", _system(device)),
        ("Network", _network(device)),
        ("Profile", _profile(profile)),
    ]


def _board(device: Device) -> list[str]:
    board = device.board
    known = board.vendor != "unknown" and not board.model.startswith(board.vendor)
    words = [f"{board.vendor} {board.model}" if known else board.model]
    if board.nominal_memory_mib:
        words.append(f"{board.nominal_memory_mib / 1024:g} GB")
    if board.revision:
        words.append(f"revision {board.revision}")
    return [", ".join(words)]


def _cpu(cpu: Cpu) -> list[str]:
    threads = f" ({cpu.logical_cpus} threads)" if cpu.logical_cpus != cpu.physical_cores else ""
    cores = f"{cpu.physical_cores} core{'s' if cpu.physical_cores != 1 else ''}{threads}"
    limited = f", {cpu.usable_cpus:g} usable" if cpu.usable_cpus < cpu.logical_cpus else ""
    clock = _clock(cpu.clusters[0]) if len(cpu.clusters) == 1 else ""
    lines = [f"{cpu.model}, {cpu.arch}, {cores}{clock}{limited}"]
    if len(cpu.clusters) > 1:
        lines.append(", ".join(f"{len(c.cpus)} {c.name}{_clock(c)}" for c in cpu.clusters))
    if cpu.last_level_cache_bytes:
        lines.append(f"{size(cpu.last_level_cache_bytes)} last-level cache")
    if cpu.features:
        lines.append(
            " ".join(f for f in cpu.features if not f.startswith("avx512") or f in AVX512_THAT_COUNT)
        )
    return lines


def _clock(cluster: Cluster) -> str:
    return f" at up to {cluster.max_mhz / 1000:.1f} GHz" if cluster.max_mhz else ""


def _memory(memory: Memory) -> list[str]:
    lines = [f"{size(memory.total_bytes)}, {size(memory.available_bytes)} available"]
    if memory.cgroup_limit_bytes is not None:
        available = size(memory.cgroup_available_bytes or 0)
        lines.append(
            f"limited to {size(memory.cgroup_limit_bytes)} by a control group, {available} of it left"
        )
    swap = SWAP_WORDS[memory.swap.kind]
    if memory.swap.kind != "none":
        swap += f": {size(memory.swap.total_bytes)}, {size(memory.swap.free_bytes)} free"
    limits = f"by control groups v{memory.cgroup_version}" if memory.memory_cgroup else "not enforceable"
    lines.append(f"{swap}; limits {limits}; pressure {'reported' if memory.psi else 'not reported'}")
    return lines


def _storage(storage: Storage) -> list[str]:
    device = f" {storage.device}" if storage.device else ""
    mode = ", read-only" if storage.read_only else ""
    where = f"{storage.path} on {STORAGE_WORDS[storage.kind]}{device} ({storage.filesystem}{mode})"
    if not storage.total_bytes:
        return [where]
    return [where, f"{size(storage.free_bytes)} free of {size(storage.total_bytes)}"]


def _thermal(thermal: Thermal) -> list[str]:
    words = []
    if thermal.hottest_c is not None:
        words.append(f"{thermal.hottest_c:.0f} °C ({thermal.zone})")
    words.extend(thermal.throttled)
    if thermal.governor:
        words.append(f"governor {thermal.governor}")
    return [", ".join(words) or "no sensors"]


def _system(device: Device) -> list[str]:
    system = device.system
    first = f"{system.os_name}, Linux {system.kernel}, {system.init}"
    if system.virtualization:
        first += f", {system.virtualization}"
    return [first, f"Python {system.python}, {system.libc}"]


def _network(device: Device) -> list[str]:
    network = device.network
    words = [network.hostname, *network.addresses]
    return [", ".join(words) + (f" via {network.default_interface}" if network.default_interface else "")]


def _profile(profile: DeviceProfile | None) -> list[str]:
    if profile is None:
        return ["none matches"]
    bandwidth = f"decodes at about {profile.bandwidth_bytes_per_s / 1e9:.1f} GB/s"
    engine = f" with {profile.engine.upper()}" if profile.engine != "cpu" else ""
    return [
        f"{profile.id} ({profile.name})",
        bandwidth + engine + (", estimated" if profile.estimate else ""),
    ]
