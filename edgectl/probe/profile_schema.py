"""The records of one file of profiles/devices, and the rules their values keep."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgectl.device import Note, StorageClass

SCHEMA = 1  # of the files; raised when a key changes meaning

Text = Annotated[str, Meta(min_length=1)]
Texts = tuple[Text, ...]
Positive = Annotated[float, Meta(gt=0)]
Engine = Literal["cpu", "cuda", "vulkan"]


class MatchRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Globs; every group that is given must match, any glob of a group will do."""

    compatible: Texts = ()  # one of the device-tree strings
    dmi: Texts = ()  # "vendor product" of the firmware tables
    cpu: Texts = ()  # the model line of /proc/cpuinfo
    arch: Texts = ()  # as the kernel says it

    def __post_init__(self) -> None:
        if not (self.compatible or self.dmi or self.cpu or self.arch):
            raise ValueError("give at least one of compatible, dmi, cpu, arch")


class MemoryEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes sold. MemTotal is ``nominal · kernel_share``; less ``os_mib`` it is what is available."""

    nominal_mib: Annotated[tuple[Annotated[int, Meta(ge=128)], ...], Meta(min_length=1)]
    kernel_share: Annotated[float, Meta(gt=0, le=1)]  # firmware, GPU and page tables keep the rest
    os_mib: Annotated[int, Meta(ge=0)]  # a headless system at rest
    note: Text

    def __post_init__(self) -> None:
        if list(self.nominal_mib) != sorted(set(self.nominal_mib)):
            raise ValueError("nominal_mib must rise and name no size twice")
        if self.available_bytes(self.nominal_mib[0]) <= 0:
            raise ValueError("os_mib leaves nothing of the smallest size")

    def total_bytes(self, nominal_mib: int) -> int:
        return int(nominal_mib * self.kernel_share) << 20

    def available_bytes(self, nominal_mib: int) -> int:
        return self.total_bytes(nominal_mib) - (self.os_mib << 20)


class ClusterEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cores of one kind; ``cpus`` counts them."""

    name: Text
    cpus: Annotated[int, Meta(ge=1)]
    max_mhz: Annotated[int, Meta(ge=100)] | None = None


class CpuEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clusters`` fastest first; ``threads_per_core`` is 2 where SMT is on."""

    arch: Literal["aarch64", "x86_64"]
    model: Text
    clusters: Annotated[tuple[ClusterEntry, ...], Meta(min_length=1)]
    features: Texts = ()
    threads_per_core: Literal[1, 2] = 1
    last_level_cache_kib: Annotated[int, Meta(ge=1)] | None = None


class StorageEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What such a board usually boots from."""

    kind: StorageClass
    total_gib: Annotated[int, Meta(ge=1)] = 32
    free_gib: Annotated[int, Meta(ge=1)] = 24


class SpeedEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token takes ``overhead_s + model file bytes / (bandwidth_gbps · 1e9)`` seconds to decode.

    ``prefill_params_per_s`` divided by the parameters of a model is its prefill speed in tokens/s.
    ``estimate`` is true where the figures do not come from Qwen3.5 runs on this very board.
    """

    bandwidth_gbps: Positive
    overhead_s: Annotated[float, Meta(ge=0)] = 0.0
    prefill_params_per_s: Positive
    engine: Engine = "cpu"  # what the figures were taken with
    estimate: bool
    source: Text


class Published(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published run: ``decode_tps`` and ``prefill_tps`` are tokens/s of a single stream."""

    model: Text
    quant: Text
    decode_tps: Positive
    prefill_tps: Positive | None = None
    engine: Engine = "cpu"
    runtime: Text = "llama.cpp"
    estimate: bool = False  # predicted from bandwidth, nobody ran it
    source: Text


class QuirkEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something every owner of this board should know."""

    code: Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    message: Text
    hint: Text

    def note(self) -> Note:
        return Note(code=self.code, message=self.message, hint=self.hint)


class BoardEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: a board in all its memory sizes."""

    schema: Literal[1]
    id: Annotated[str, Meta(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$")]
    name: Text
    kind: Literal["raspberry-pi", "rockchip", "jetson", "pc", "unknown"]
    vendor: Text
    match: MatchRules
    memory: MemoryEntry
    cpu: CpuEntry
    storage: StorageEntry
    speed: SpeedEntry
    published: tuple[Published, ...] = ()
    quirks: tuple[QuirkEntry, ...] = ()
