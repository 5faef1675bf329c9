"""What will hurt on a device, judged from its facts: one check a quirk, pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.device import Note
from edgectl.probe.cpu import UNKNOWN_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgectl.device import Device, Storage

GIB = 1 << 30
TINY_FREE_BYTES = 2 * GIB  # the 2B model has 1.3 GB and is downloaded beside the old one
TINY_MEMORY_BYTES = 1200 << 20  # the 0.8B model with an 8k context needs about 1.1 GiB
HOT_C = 80.0  # a Raspberry Pi slows down softly from 80 °C and hard from 85 °C
PI_CMDLINE = "/boot/firmware/cmdline.txt (older systems: /boot/cmdline.txt)"
SLOW_GOVERNORS = frozenset({"powersave", "conservative"})


def quirks(device: Device) -> tuple[Note, ...]:
    """Notes about ``device``, the gravest first."""
    return (*_memory(device), *_power(device), *_storage(device.storage), *_cpu(device), *_system(device))


def _memory(device: Device) -> Iterator[Note]:
    memory, is_pi = device.memory, device.board.kind == "raspberry-pi"
    if not memory.memory_cgroup:
        yield Note(
            code="memory-cgroup-off",
            message="the kernel cannot enforce memory limits, so the engine can starve the whole system",
            hint=f"add `cgroup_enable=memory cgroup_memory=1 psi=1` to the line in {PI_CMDLINE} and reboot"
            if is_pi
            else "boot with `cgroup_enable=memory`, or with a kernel that has CONFIG_MEMCG",
        )
    if not memory.psi:
        pi_hint = f"add `psi=1` to the line in {PI_CMDLINE} and reboot"
        if not memory.memory_cgroup:
            pi_hint = "the same line switches that on"
        yield Note(
            code="psi-off",
            message="the kernel does not report memory pressure, so trouble is noticed later",
            hint=pi_hint if is_pi else "boot with `psi=1`",
        )
    if memory.cgroup_limit_bytes is not None:
        yield Note(
            code="cgroup-limit",
            message=f"a control group limits this process to {memory.cgroup_limit_bytes >> 20} MiB",
            hint="plans keep to that; raise the limit of the container or service for a larger model",
        )
    if 0 < memory.total_bytes < TINY_MEMORY_BYTES:
        yield Note(
            code="memory-tiny",
            message="this is less memory than the smallest model needs to run well",
            hint="`edgectl plan` says what still fits",
        )
    if memory.swap.kind == "sd":
        yield Note(
            code="swap-on-sd",
            message="swap lies on an SD card: swapping wears it out and stalls everything",
            hint="use zram instead: `sudo apt install zram-tools`, then `sudo swapoff -a` for the file",
        )


def _power(device: Device) -> Iterator[Note]:
    thermal = device.thermal
    now = [text.removesuffix(" now") for text in thermal.throttled if text.endswith(" now")]
    before = [text.removesuffix(" since boot") for text in thermal.throttled if text.endswith(" since boot")]
    if "under-voltage" in now:
        yield Note(
            code="under-voltage",
            message="the supply voltage is too low right now: the board slows down and may corrupt its disk",
            hint="use the supply made for this board, and a short cable",
        )
    if slowed := [text for text in now if text != "under-voltage"]:
        yield Note(
            code="throttled",
            message=f"the firmware slows the board down right now ({', '.join(slowed)})",
            hint="cool it better (active cooler, open case) or cure the power supply",
        )
    if before:
        yield Note(
            code="throttled-before",
            message=f"since boot there was: {', '.join(before)}",
            hint="expect it again under load; check supply and cooling",
        )
    if thermal.hottest_c is not None and thermal.hottest_c >= HOT_C and not now:
        yield Note(
            code="hot",
            message=f"{thermal.zone} is at {thermal.hottest_c:.0f} °C before any model runs",
            hint="cool it better, or generation will slow down",
        )
    if thermal.governor in SLOW_GOVERNORS and device.board.kind != "pc":
        yield _slow_governor(thermal.governor)


def _slow_governor(governor: str) -> Note:
    return Note(
        code="governor-slow",
        message=f"the CPU frequency governor is {governor}, which holds the clock down",
        hint="`echo schedutil | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor`",
    )


def _storage(storage: Storage) -> Iterator[Note]:
    if storage.read_only:
        yield Note(
            code="storage-read-only",
            message=f"{storage.path} cannot be written: its file system is read-only",
            hint="remount it, or choose another place for the models",
        )
    if storage.total_bytes and storage.free_bytes < TINY_FREE_BYTES:
        yield Note(
            code="storage-small",
            message=f"{storage.path} has only {storage.free_bytes >> 20} MiB free; models take 0.5 GB and up",
            hint="make room, or choose another place for the models",
        )
    if storage.kind == "sd":
        yield Note(
            code="storage-sd",
            message="models lie on an SD card: loading 1 GB takes 10 to 40 s",
            hint="an NVMe or USB 3 disk loads several times faster; generation is the same",
        )
    if storage.kind == "memory":
        yield Note(
            code="storage-volatile",
            message=f"{storage.path} lies in memory: models there vanish at reboot and use memory twice",
            hint="choose a place on a disk",
        )
    if storage.kind == "network":
        yield Note(
            code="storage-network",
            message=f"{storage.path} lies on the network; the service cannot start without it",
            hint="keep models on a local disk",
        )


def _cpu(device: Device) -> Iterator[Note]:
    cpu = device.cpu
    if cpu.arch == "x86_64" and cpu.model != UNKNOWN_MODEL and "avx2" not in cpu.features:
        yield Note(
            code="no-avx2",
            message="the CPU has no AVX2: generation is several times slower than planned",
            hint="in a virtual machine, choose the CPU model `host`",
        )
    if cpu.arch == "aarch64" and "asimd" in cpu.features and "asimddp" not in cpu.features:
        yield Note(
            code="no-dot-product",
            message="the CPU has no dot-product instructions: reading a long prompt takes minutes",
            hint="keep prompts short and prefer the smallest model",
        )
    if cpu.usable_cpus < cpu.logical_cpus:
        yield Note(
            code="cpu-limited",
            message=f"only {cpu.usable_cpus:g} of {cpu.logical_cpus} CPUs may be used here",
            hint="plans keep to that; raise the CPU limit of the container or service for more speed",
        )


def _system(device: Device) -> Iterator[Note]:
    if not device.system.systemd:
        yield Note(
            code="no-systemd",
            message=f"systemd does not run here (init is {device.system.init}): no service can be installed",
            hint="run `edged` under the supervisor you have, or try `edgectl demo`",
        )
