"""Decodes Raspberry Pi revision codes.

Source: "Raspberry Pi revision codes", new-style codes, in the Raspberry Pi documentation
(raspberrypi.com/documentation/computers/raspberry-pi.html).
"""

from __future__ import annotations

from msgspec import Struct

NEW_STYLE = 1 << 23
SMALLEST_MIB = 256  # memory field 0; every step doubles it
MANUFACTURERS = ("Sony UK", "Egoman", "Embest", "Sony Japan", "Embest", "Stadium")
PROCESSORS = ("BCM2835", "BCM2836", "BCM2837", "BCM2711", "BCM2712")
TYPES = {
    0x00: "A", 0x01: "B", 0x02: "A+", 0x03: "B+", 0x04: "2B", 0x05: "Alpha", 0x06: "CM1", 0x08: "3B",
    0x09: "Zero", 0x0A: "CM3", 0x0C: "Zero W", 0x0D: "3B+", 0x0E: "3A+", 0x10: "CM3+", 0x11: "4B",
    0x12: "Zero 2 W", 0x13: "400", 0x14: "CM4", 0x15: "CM4S",
    0x17: "5", 0x18: "CM5", 0x19: "500", 0x1A: "CM5 Lite",
}  # fmt: skip


class PiRevision(Struct, frozen=True):
    """What a new-style code says; names that the documentation does not list read "unknown"."""

    type: str
    revision: str  # "1.4"
    processor: str
    manufacturer: str
    memory_mib: int


def decode_revision(code: int) -> PiRevision | None:
    """The fields of a new-style code (bit 23 set); None for the sequential codes of the first boards."""
    if not code & NEW_STYLE:
        return None
    return PiRevision(
        type=TYPES.get(code >> 4 & 0xFF, "unknown"),
        revision=f"1.{code & 0xF}",
        processor=_name(PROCESSORS, code >> 12 & 0xF),
        manufacturer=_name(MANUFACTURERS, code >> 16 & 0xF),
        memory_mib=SMALLEST_MIB << (code >> 20 & 0x7),
    )


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if index < len(names) else "unknown"
