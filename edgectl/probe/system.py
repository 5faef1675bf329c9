"""The operating system: release, kernel, init, Python, C library, virtualization."""

from __future__ import annotations

import platform
import re
import sys
from typing import TYPE_CHECKING

from edgectl.device import Note, System
from edgectl.probe.cpu import architecture
from edgectl.probe.virtualization import container, hypervisor
from edged.host.files import read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# systemd ships its code in one library that carries the version in its name.
SYSTEMD_LIBRARIES = ("usr/lib/systemd", "lib/systemd", "usr/lib/*-linux-gnu*/systemd")
SYSTEMD_VERSION = re.compile(r"libsystemd-shared-(\d+)")
SHELLS = ("bin/sh", "usr/bin/sh")
ELF_32 = b"\x7fELF\x01"


def probe(root: Path) -> tuple[System, tuple[Note, ...]]:
    """The system, and a note about a 32-bit userland or a missing /etc/os-release."""
    release = _os_release(root)
    places = [name for name in (container(root), hypervisor(root)) if name]
    record = System(
        os_id=release.get("ID", "unknown"),
        os_name=release.get("PRETTY_NAME") or release.get("NAME", "unknown"),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or "unknown",
        init=_init(root),
        systemd=(root / "run/systemd/system").is_dir(),
        python=_python(root),
        libc=_libc(root),
        virtualization=" in ".join(places) or None,
    )
    notes: list[Note] = []
    if not release:
        notes.append(Note(code="os-unknown", message="/etc/os-release cannot be read"))
    if _userland_is_32_bit(root):
        notes.append(_userland_note(architecture(root)))
    return record, tuple(notes)


def _os_release(root: Path) -> dict[str, str]:
    text = read_text(root / "etc/os-release") or read_text(root / "usr/lib/os-release") or ""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _init(root: Path) -> str:
    name = read_text(root / "proc/1/comm") or "unknown"
    if name != "systemd":
        return name
    for folder in SYSTEMD_LIBRARIES:
        for file in sorted(root.glob(f"{folder}/libsystemd-shared-*.so")):
            if version := SYSTEMD_VERSION.match(file.name):
                return f"systemd {version[1]}"
    return name


def _python(root: Path) -> str:
    """The running interpreter; in a recorded tree the newest that is installed there."""
    if root == ROOT:
        return platform.python_version()
    versions = [path.name.removeprefix("python") for path in root.glob("usr/lib/python3.*")]
    return max(versions, key=lambda text: int(text.partition(".")[2] or 0), default="unknown")


def _libc(root: Path) -> str:
    if root == ROOT and (told := " ".join(part for part in platform.libc_ver() if part)):
        return told
    if any(root.glob("lib/ld-musl-*")):
        return "musl"
    return "glibc" if any(root.glob("lib/*-linux-gnu*/libc.so.6")) else "unknown"


def _userland_is_32_bit(root: Path) -> bool:
    if root == ROOT:
        return sys.maxsize < 1 << 32
    for shell in SHELLS:
        try:
            with (root / shell).open("rb") as file:
                return file.read(len(ELF_32)) == ELF_32
        except OSError:
            continue
    return False


def _userland_note(arch: str) -> Note:
    kernel_64 = arch in {"aarch64", "x86_64"}
    return Note(
        code="userland-32-bit",
        message=f"programs here are 32-bit{' although the kernel is 64-bit' if kernel_64 else ''}; "
        "a process can hold 3 GiB at most and the engine runs slowly or not at all",
        hint="install the 64-bit edition of the operating system",
    )
