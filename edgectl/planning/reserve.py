"""The memory left to everything else, and why so much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.planning.wishes import Wishes

__all__ = ["ReservePart", "reserve_parts"]

MIB = 1 << 20
# Left when nobody says: a tenth, enough for an update or a login on a small board, and no more than a
# gigabyte on a large one.
SHARE = 0.10
LEAST_MIB = 128
MOST_MIB = 1024
# A desktop at rest takes its memory before anyone opens a browser; one tab with a page of today takes this.
DESKTOP_MIB = 512
# Programs that hold much now will hold more: caches of a database grow with its data.
GROWTH = {"database": 0.5, "other": 0.25}
ZRAM_RATIO = 3  # usual compression of zram with lzo-rle or zstd; pages that come back are whole again
MOST_SHARE = 0.5  # a plan for half of a computer is still a plan


class ReservePart(Struct, frozen=True, kw_only=True):
    """Bytes kept free, and what for, as words that follow "kept free"."""

    why: str
    bytes: int


def reserve_parts(device: Device, wishes: Wishes) -> tuple[ReservePart, ...]:
    """What is kept free on ``device``; their sum is the reserve.

    A wish counts alone. Otherwise the parts together take at most half of the memory.
    """
    if wishes.reserve_mib is not None:
        return (ReservePart(why="as asked for", bytes=wishes.reserve_mib * MIB),)
    total = device.memory.total_bytes
    usual_mib = min(max(int(total * SHARE) // MIB, LEAST_MIB), MOST_MIB)
    why = {LEAST_MIB: "the least for a system", MOST_MIB: "the usual for a large computer"}
    parts = [ReservePart(why=why.get(usual_mib, "a tenth of the memory"), bytes=usual_mib * MIB)]
    parts += _neighbours(device)
    return tuple(_at_most(parts, int(total * MOST_SHARE)))


def _neighbours(device: Device) -> list[ReservePart]:
    parts = []
    if device.neighbours.desktop:
        parts.append(_part(f"the {device.neighbours.desktop} desktop", DESKTOP_MIB * MIB))
    for program in device.neighbours.programs:
        name = f"the database {program.name}" if program.kind == "database" else program.name
        parts.append(_part(f"growth of {name}", int(program.anon_bytes * GROWTH[program.kind])))
    swap = device.memory.swap
    if swap.kind != "none":
        swapped = max(swap.total_bytes - swap.free_bytes, 0)
        if swap.kind == "zram":
            swapped -= swapped // ZRAM_RATIO  # what is compressed in memory is not available now either
        where = "zram" if swap.kind == "zram" else "swap"
        parts.append(_part(f"what comes back from {where}", swapped))
    return [part for part in parts if part.bytes >= MIB]


def _part(why: str, size_bytes: int) -> ReservePart:
    return ReservePart(why=why, bytes=size_bytes // MIB * MIB)


def _at_most(parts: list[ReservePart], limit_bytes: int) -> list[ReservePart]:
    """``parts`` until ``limit_bytes`` are reached; the first one stays whole."""
    kept, left = parts[:1], limit_bytes - parts[0].bytes
    for part in parts[1:]:
        size_bytes = min(part.bytes, left)
        if size_bytes >= MIB:
            kept.append(ReservePart(why=part.why, bytes=size_bytes // MIB * MIB))
            left -= size_bytes
    return kept
