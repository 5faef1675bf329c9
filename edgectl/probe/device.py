"""Puts one computer together: every fact group, its notes, and the profile that matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgectl.device import Device
from edgectl.probe import board, cpu, memory, neighbours, network, storage, system, thermal
from edgectl.probe.profiles import load_profiles, match
from edgectl.probe.quirks import quirks
from edged.host.paths import SYSTEM, default_paths
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def probe_device(root: Path = ROOT, *, path: Path | None = None) -> Device:
    """The computer whose /proc, /sys and /etc lie under ``root``; another root is a recorded tree.

    ``path`` is the place whose storage matters (default: the model store). A file that is missing
    costs a fact or adds a note, and is never an error. Raises DataInvalid when a profile is broken.
    """
    place = path or (default_paths().models if root == ROOT else SYSTEM.models)
    board_facts, board_notes = board.probe(root)
    cpu_facts, cpu_notes = cpu.probe(root)
    memory_facts, memory_notes = memory.probe(root)
    storage_facts, storage_notes = storage.probe(root, place)
    thermal_facts, thermal_notes = thermal.probe(root)
    system_facts, system_notes = system.probe(root)
    network_facts, network_notes = network.probe(root)
    unread = (
        *memory_notes, *cpu_notes, *board_notes, *storage_notes, *thermal_notes,
        *system_notes, *network_notes,
    )  # fmt: skip
    device = Device(
        board=board_facts,
        cpu=cpu_facts,
        memory=memory_facts,
        storage=storage_facts,
        thermal=thermal_facts,
        system=system_facts,
        network=network_facts,
        neighbours=neighbours.probe(root),
    )
    profile = match(device, load_profiles())
    known = profile.quirks if profile else ()
    return replace(device, profile=profile.id if profile else None, notes=(*quirks(device), *unread, *known))
