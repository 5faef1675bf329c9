"""Reads heat and power: thermal zones, Raspberry Pi throttling, the frequency governor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edged.host.files import read_int, read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# Bits of the firmware's get_throttled; the same 16 bits higher mean "since boot".
# Source: raspberrypi.com/documentation/computers/os.html, "get_throttled".
THROTTLE_BITS = (
    (0, "under-voltage"),
    (1, "frequency capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
)
SINCE_BOOT_SHIFT = 16
# Sensors that are switched off report such values as -274 or 0xffff; no board survives outside these.
PLAUSIBLE_C = (-40.0, 150.0)
# Trip points that firmware fills with nonsense are 0 or far below what silicon is made for.
PLAUSIBLE_TRIP_C = (60.0, 130.0)
TRIP_KINDS = ("passive", "critical")


class Zone(Struct, frozen=True):
    """One thermal zone. From ``passive_c`` on the kernel slows the CPU down; at ``critical_c`` it stops."""

    name: str
    celsius: float
    passive_c: float | None = None
    critical_c: float | None = None


class Throttling(Struct, frozen=True):
    """What the firmware of a Raspberry Pi does against heat or weak power, now and since boot."""

    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()


def hottest_zone(root: Path = ROOT) -> Zone | None:
    """The hottest plausible zone of /sys/class/thermal; None without sensors."""
    zones: list[Zone] = []
    for directory in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = read_int(directory / "temp")
        if millidegrees is None or not PLAUSIBLE_C[0] <= millidegrees / 1000 <= PLAUSIBLE_C[1]:
            continue
        name = read_text(directory / "type") or directory.name
        zones.append(Zone(name, millidegrees / 1000, *(_trip_c(directory, kind) for kind in TRIP_KINDS)))
    return max(zones, key=lambda zone: zone.celsius, default=None)


def _trip_c(directory: Path, kind: str) -> float | None:
    """The lowest trip point of a kind (docs.kernel.org/driver-api/thermal/sysfs-api.html)."""
    found = []
    for path in directory.glob("trip_point_*_type"):
        if read_text(path) == kind:
            millidegrees = read_int(path.with_name(path.name.replace("_type", "_temp")))
            if millidegrees is not None and PLAUSIBLE_TRIP_C[0] <= millidegrees / 1000 <= PLAUSIBLE_TRIP_C[1]:
                found.append(millidegrees / 1000)
    return min(found, default=None)


def throttling(root: Path = ROOT) -> Throttling | None:
    """The throttle bits of a Raspberry Pi; None on other computers."""
    for path in sorted((root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled")):
        bits = _hexadecimal(read_text(path))
        if bits is not None:
            return decode_throttled(bits)
    # Kernels without that file still have the supply sensor, which knows the present only.
    for directory in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(directory / "name") == "rpi_volt":
            return decode_throttled(1 if read_int(directory / "in0_lcrit_alarm") else 0)
    return None


def decode_throttled(bits: int) -> Throttling:
    return Throttling(
        now=tuple(name for bit, name in THROTTLE_BITS if bits >> bit & 1),
        since_boot=tuple(name for bit, name in THROTTLE_BITS if bits >> bit + SINCE_BOOT_SHIFT & 1),
    )


def governor(root: Path = ROOT) -> str | None:
    """The cpufreq governor of the first CPU that has one."""
    for path in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")):
        return read_text(path)
    return read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def _hexadecimal(text: str | None) -> int | None:
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None
