"""The processor: cores, clusters, instruction sets, cache, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from edgectl.device import Cluster, Cpu, Note
from edgectl.probe import cpuinfo
from edged.host import cgroup
from edged.host.files import read_int, read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CPUS = "sys/devices/system/cpu"
UNKNOWN_MODEL = "unknown"
ARM_LIMITED = 0x41
# Part numbers of ARM Limited's cores; source: Linux, arch/arm64/include/asm/cputype.h.
ARM_PARTS = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
    0xD47: "Cortex-A710", 0xD49: "Neoverse-N2", 0xD4B: "Cortex-A78C", 0xD4D: "Cortex-A715",
    0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720",
}  # fmt: skip
X86_FEATURES = frozenset({"avx", "avx2", "avx_vnni", "f16c", "fma"})
X86_FAMILIES = ("avx512", "amx_")
ARM_FEATURES = {
    "asimd": "asimd", "asimddp": "asimddp", "asimdhp": "fp16", "bf16": "bf16", "i8mm": "i8mm", "sve": "sve",
    "sve2": "sve2",
}  # fmt: skip
# Cores of one kind whose top speeds differ less than this work as one cluster: chips of
# the RK3588 are binned pair by pair, 2256 to 2400 MHz.
SAME_CLUSTER = 0.85


def probe(root: Path) -> tuple[Cpu, tuple[Note, ...]]:
    """The processor, and a note when /proc/cpuinfo says nothing."""
    found = cpuinfo.blocks(root)
    processors = cpuinfo.processors(found)
    online = cgroup.parse_cpus(read_text(root / CPUS / "online")) or tuple(sorted(processors)) or (0,)
    names = {number: _core_name(processors.get(number, {})) for number in online}
    clusters = _clusters(root, online, names)
    names_found = " + ".join(dict.fromkeys(cluster.name for cluster in clusters))
    cpu = Cpu(
        arch=architecture(root),
        model=cpuinfo.value(found, "model name") or (names_found if found else UNKNOWN_MODEL),
        physical_cores=_physical_cores(root, online, processors),
        logical_cpus=len(online),
        usable_cpus=_usable(root, online),
        features=_features(processors),
        clusters=clusters,
        last_level_cache_bytes=_last_level_cache(root, online[0]),
    )
    if found:
        return cpu, ()
    return cpu, (
        Note(code="cpuinfo-unreadable", message="/proc/cpuinfo cannot be read; CPU facts are guesses"),
    )


def architecture(root: Path) -> str:
    """The kernel's name of the machine: x86_64, aarch64, armv7l, ...; "unknown" when nothing tells."""
    if root == ROOT:
        return platform.machine()
    if told := read_text(root / "proc/sys/kernel/arch"):  # since Linux 6.1
        return told
    found = cpuinfo.blocks(root)
    if any("lm" in cpuinfo.flags(block) for block in found):
        return "x86_64"
    return "aarch64" if cpuinfo.value(found, "cpu architecture") == "8" else "unknown"


def _core_name(block: Mapping[str, str]) -> str:
    if "model name" in block:
        return block["model name"]
    try:
        implementer, part = int(block["cpu implementer"], 16), int(block["cpu part"], 16)
    except (KeyError, ValueError):
        return "cores"
    known = ARM_PARTS.get(part) if implementer == ARM_LIMITED else None
    return known or f"implementer {implementer:#x} part {part:#x}"


def _clusters(root: Path, online: tuple[int, ...], names: dict[int, str]) -> tuple[Cluster, ...]:
    hybrid = _intel_hybrid(root, online)
    if hybrid:
        return hybrid
    speeds = {number: _speed(root, number) for number in online}
    x86 = any((root / CPUS / f"cpu{online[0]}" / name).exists() for name in ("microcode", "thermal_throttle"))
    groups: list[list[int]] = []
    for number in sorted(online, key=lambda n: (-speeds[n], names[n], n)):
        first = groups[-1][0] if groups else None
        # Favoured cores of a PC turbo higher, yet all cores of a PC without cpu_core/cpu_atom are alike.
        alike = first is not None and names[first] == names[number]
        if alike and (x86 or (first is not None and speeds[number] >= SAME_CLUSTER * speeds[first])):
            groups[-1].append(number)
        else:
            groups.append([number])
    return tuple(Cluster(name=names[g[0]], cpus=tuple(sorted(g)), max_mhz=_max_mhz(root, g)) for g in groups)


def _intel_hybrid(root: Path, online: tuple[int, ...]) -> tuple[Cluster, ...]:
    clusters: list[Cluster] = []
    for name, label in (("cpu_core", "P-cores"), ("cpu_atom", "E-cores")):
        cpus = cgroup.parse_cpus(read_text(root / "sys/devices" / name / "cpus"))
        present = tuple(number for number in cpus if number in online)
        if present:
            clusters.append(Cluster(name=label, cpus=present, max_mhz=_max_mhz(root, list(present))))
    return tuple(clusters) if len(clusters) == 2 else ()


def _speed(root: Path, number: int) -> int:
    """A figure to compare cores by: the scheduler's capacity (1024 = fastest), else kHz, else 0."""
    directory = root / CPUS / f"cpu{number}"
    return read_int(directory / "cpu_capacity") or read_int(directory / "cpufreq/cpuinfo_max_freq") or 0


def _max_mhz(root: Path, cpus: list[int]) -> int | None:
    khz = [read_int(root / CPUS / f"cpu{number}/cpufreq/cpuinfo_max_freq") or 0 for number in cpus]
    return max(khz) // 1000 or None


def _physical_cores(root: Path, online: tuple[int, ...], processors: Mapping[int, Mapping[str, str]]) -> int:
    siblings: set[object] = set()
    for number in online:
        topology = root / CPUS / f"cpu{number}" / "topology"
        shared = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        block = processors.get(number, {})
        core = (block.get("physical id"), block["core id"]) if "core id" in block else number
        siblings.add(shared or core)
    return len(siblings)


def _features(processors: Mapping[int, Mapping[str, str]]) -> tuple[str, ...]:
    """Instruction sets that every core has: a thread may run on any of them."""
    flags = [cpuinfo.flags(block) for block in processors.values()]
    shared = frozenset[str].intersection(*flags) if flags else frozenset[str]()
    x86 = {flag for flag in shared if flag in X86_FEATURES or flag.startswith(X86_FAMILIES)}
    return tuple(sorted(x86 | {ARM_FEATURES[flag] for flag in shared if flag in ARM_FEATURES}))


def _last_level_cache(root: Path, number: int) -> int | None:
    sizes: list[tuple[int, int]] = []
    for index in (root / CPUS / f"cpu{number}" / "cache").glob("index*"):
        text = read_text(index / "size") or ""
        factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:])
        if factor and text[:-1].isdecimal() and read_text(index / "type") != "Instruction":
            sizes.append((read_int(index / "level") or 0, int(text[:-1]) * factor))
    return max(sizes)[1] if sizes else None


def _usable(root: Path, online: tuple[int, ...]) -> float:
    """CPUs this process may use: affinity and cpuset, then the time quota."""
    allowed = set(online) & (set(_affinity(root)) or set(online)) & set(cgroup.cpuset(root) or online)
    quota = cgroup.cpu_quota(root)
    return float(min(len(allowed) or 1, quota if quota is not None else len(online)))


def _affinity(root: Path) -> tuple[int, ...]:
    if root == ROOT:
        return tuple(os.sched_getaffinity(0))
    for line in (read_text(root / "proc/self/status") or "").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return cgroup.parse_cpus(line.partition(":")[2])
    return ()
