"""Looks at what makes the box take less work: heat, weak power, waiting for memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.host.pressure import memory_pressure
from edged.host.procfs import ROOT
from edged.host.thermal import hottest_zone, throttling
from edged.scheduling.intake import Strain

if TYPE_CHECKING:
    from pathlib import Path

# Where a zone names no trip points: boards slow down from 80 °C (Raspberry Pi) to 100 °C (PCs) on. Those that
# do so earlier and say it (`throttling`) are believed.
HOT_C = 90.0
CRITICAL_C = 105.0
BELOW_CRITICAL_C = 10.0  # where only the end is named


def read_strain(root: Path = ROOT) -> Strain:
    """One reading of /sys and /proc below ``root``; what the host has no sensor for is None."""
    zone, throttle, pressure = hottest_zone(root), throttling(root), memory_pressure(root)
    passive_c = zone.passive_c if zone else None
    critical_c = (zone.critical_c if zone else None) or CRITICAL_C
    return Strain(
        celsius=zone.celsius if zone else None,
        hot_c=passive_c or min(HOT_C, critical_c - BELOW_CRITICAL_C),
        critical_c=critical_c,
        throttled=throttle.now if throttle else (),
        memory_some_percent=pressure.some.avg10 if pressure else None,
        memory_full_percent=pressure.full.avg10 if pressure else None,
    )
