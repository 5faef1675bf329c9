"""Which board this is: device tree, firmware tables, Raspberry Pi revision code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.device import Board, Note
from edgectl.probe import cpuinfo
from edgectl.probe.revision import decode_revision
from edgectl.probe.virtualization import hypervisor
from edged.host.files import read_text

if TYPE_CHECKING:
    from pathlib import Path

DEVICE_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
FAMILIES = (("raspberrypi,", "raspberry-pi"), ("rockchip,", "rockchip"), ("nvidia,", "jetson"))
VENDORS = {"raspberrypi": "Raspberry Pi", "radxa": "Radxa", "xunlong": "Xunlong", "nvidia": "NVIDIA"}
# What makers of boards leave in the firmware tables instead of a name.
PLACEHOLDERS = frozenset(
    {
        "",
        "default string",
        "system product name",
        "system manufacturer",
        "to be filled by o.e.m.",
        "o.e.m.",
        "none",
    }
)


def probe(root: Path) -> tuple[Board, tuple[Note, ...]]:
    """The board, and a note when nothing says which it is."""
    compatible = tuple(text for text in (_tree(root, "compatible") or "").split("\0") if text)
    board = _from_tree(root, compatible) if compatible or _tree(root, "model") else _from_dmi(root)
    if board.model != "unknown":
        return board, ()
    unknown = Note(
        code="board-unknown",
        message="neither a device tree nor firmware tables say which board this is",
        hint="speed estimates use a generic profile; a measurement after installation replaces them",
    )
    return board, () if board.kind == "virtual" else (unknown,)


def _from_tree(root: Path, compatible: tuple[str, ...]) -> Board:
    model = _tree(root, "model")
    code = _revision_code(root)
    decoded = decode_revision(code) if code is not None else None
    kind = next(
        (name for prefix, name in FAMILIES for text in compatible if text.startswith(prefix)), "unknown"
    )
    if kind == "unknown" and (decoded or (model or "").startswith("Raspberry Pi")):
        kind = "raspberry-pi"
    is_pi = kind == "raspberry-pi"
    if hypervisor(root):
        kind = "virtual"
    if is_pi and decoded and not model:
        model = f"Raspberry Pi {decoded.type} Rev {decoded.revision}"
    maker = compatible[0].partition(",")[0] if compatible else ""
    return Board(
        kind=kind,
        vendor="Raspberry Pi" if is_pi else VENDORS.get(maker, maker or "unknown"),
        model=model or (compatible[0] if compatible else "unknown"),
        revision=f"{code:x}" if is_pi and code is not None else None,
        nominal_memory_mib=decoded.memory_mib if is_pi and decoded else None,
        compatible=compatible,
    )


def _from_dmi(root: Path) -> Board:
    virtual = hypervisor(root)
    vendor, model = _dmi(root, "sys_vendor", "board_vendor"), _dmi(root, "product_name", "board_name")
    kind = "virtual" if virtual else "unknown" if (vendor, model) == (None, None) else "pc"
    return Board(
        kind=kind,
        vendor=vendor or "unknown",
        model=model or ("virtual machine" if virtual else "unknown"),
    )


def _dmi(root: Path, *names: str) -> str | None:
    texts = (read_text(root / "sys/class/dmi/id" / name) or "" for name in names)
    return next((text for text in texts if text.lower() not in PLACEHOLDERS), None)


def _tree(root: Path, name: str) -> str | None:
    return next((text for base in DEVICE_TREES if (text := read_text(root / base / name))), None)


def _revision_code(root: Path) -> int | None:
    """The code from /proc/cpuinfo; the device tree has it as four big-endian bytes."""
    text = cpuinfo.value(cpuinfo.blocks(root), "revision")
    try:
        if text:
            return int(text, 16)
        raw = (root / "proc/device-tree/system/linux,revision").read_bytes()
    except (OSError, ValueError):
        return None
    return int.from_bytes(raw, "big") if len(raw) == 4 else None
