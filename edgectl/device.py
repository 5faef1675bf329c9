"""What a computer is: the records that probing fills and planning reads."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

SCHEMA = 1  # raised when a field changes meaning; readers of `edgectl probe --json` check it

StorageClass = Literal["sd", "emmc", "usb", "nvme", "ssd", "hdd", "virtual", "network", "memory", "unknown"]
SwapKind = Literal["none", "zram", "sd", "disk"]


class Note(Struct, frozen=True, kw_only=True):
    """Something a person should know: a stable code, what it is, what to do about it."""

    code: str
    message: str
    hint: str = ""


class Board(Struct, frozen=True, kw_only=True):
    """``kind`` is a family ("raspberry-pi", "rockchip", "jetson", "pc", "virtual", "unknown")."""

    kind: str
    vendor: str
    model: str
    revision: str | None = None  # Raspberry Pi revision code, as hexadecimal text
    nominal_memory_mib: int | None = None  # soldered size where the revision code tells it
    compatible: tuple[str, ...] = ()  # device-tree strings, most specific first


class Cluster(Struct, frozen=True, kw_only=True):
    """Cores of one kind, fastest cluster first in :class:`Cpu`."""

    name: str
    cpus: tuple[int, ...]
    max_mhz: int | None = None


class Cpu(Struct, frozen=True, kw_only=True):
    arch: str  # as the kernel says it: x86_64, aarch64
    model: str
    physical_cores: int
    logical_cpus: int
    usable_cpus: float  # after affinity and cgroup quota
    features: tuple[str, ...] = ()  # instruction sets that matter to inference, sorted
    clusters: tuple[Cluster, ...] = ()
    last_level_cache_bytes: int | None = None


class Swap(Struct, frozen=True, kw_only=True):
    kind: SwapKind
    total_bytes: int = 0
    free_bytes: int = 0


class Memory(Struct, frozen=True, kw_only=True):
    total_bytes: int
    available_bytes: int
    swap: Swap
    cgroup_version: Literal[0, 1, 2]  # 0: none mounted
    cgroup_limit_bytes: int | None = None  # the tightest limit above this process
    cgroup_available_bytes: int | None = None  # that limit less what is used and cannot be reclaimed
    memory_cgroup: bool = False  # the kernel can enforce memory limits
    psi: bool = False  # /proc/pressure is there


class Storage(Struct, frozen=True, kw_only=True):
    path: str
    kind: StorageClass
    device: str
    filesystem: str
    total_bytes: int
    free_bytes: int
    read_only: bool = False


class Thermal(Struct, frozen=True, kw_only=True):
    hottest_c: float | None = None
    zone: str | None = None
    throttled: tuple[str, ...] = ()  # e.g. "under-voltage now", "frequency capped since boot"
    governor: str | None = None


class System(Struct, frozen=True, kw_only=True):
    os_id: str
    os_name: str
    kernel: str
    init: str  # "systemd 252", "process_api", ...
    systemd: bool
    python: str
    libc: str
    virtualization: str | None = None


class Network(Struct, frozen=True, kw_only=True):
    hostname: str
    addresses: tuple[str, ...] = ()  # without loopback and link-local
    default_interface: str | None = None


class Program(Struct, frozen=True, kw_only=True):
    """A large program that runs already, all its processes together; ``kind`` is what it is known as."""

    name: str
    kind: Literal["database", "other"]
    anon_bytes: int


class Neighbours(Struct, frozen=True, kw_only=True):
    """What else the computer does: a desktop ("" without one) and large programs, the largest first."""

    desktop: str = ""
    programs: tuple[Program, ...] = ()


class Device(Struct, frozen=True, kw_only=True):
    """One computer, as found. ``notes`` says what could not be read and what will hurt."""

    board: Board
    cpu: Cpu
    memory: Memory
    storage: Storage
    thermal: Thermal
    system: System
    network: Network
    profile: str | None = None  # id of the entry of profiles/devices that matches best
    notes: tuple[Note, ...] = ()
    neighbours: Neighbours = Neighbours()
    schema: int = SCHEMA
