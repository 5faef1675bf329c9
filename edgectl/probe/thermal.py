"""Heat, throttling and the frequency governor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.device import Note, Thermal
from edged.host import thermal

if TYPE_CHECKING:
    from pathlib import Path


def probe(root: Path) -> tuple[Thermal, tuple[Note, ...]]:
    """What the sensors say; computers without sensors are common and get no note."""
    zone = thermal.hottest_zone(root)
    limits = thermal.throttling(root) or thermal.Throttling()
    record = Thermal(
        hottest_c=zone.celsius if zone else None,
        zone=zone.name if zone else None,
        throttled=(
            *(f"{name} now" for name in limits.now),
            *(f"{name} since boot" for name in limits.since_boot if name not in limits.now),
        ),
        governor=thermal.governor(root),
    )
    return record, ()
