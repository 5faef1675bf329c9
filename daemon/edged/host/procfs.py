"""Reads /proc: the memory of the computer and of one process."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from edged.host.files import read_text

ROOT = Path("/")
KIB = 1024


class MemInfo(Struct, frozen=True):
    """The computer's memory, in bytes."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


class ProcessMemory(Struct, frozen=True):
    """What one process keeps resident (anonymous, file pages, shared memory) and in swap, in bytes."""

    rss_anon_bytes: int
    rss_file_bytes: int
    rss_shmem_bytes: int
    swap_bytes: int
    threads: int

    @property
    def rss_bytes(self) -> int:
        return self.rss_anon_bytes + self.rss_file_bytes + self.rss_shmem_bytes


def meminfo(root: Path = ROOT) -> MemInfo:
    """/proc/meminfo. Raises OSError when it is not there: nothing can be said without it."""
    path = root / "proc/meminfo"
    fields = _fields(read_text(path))
    if "MemTotal" not in fields:
        raise FileNotFoundError(f"{path} cannot be read; is /proc mounted?")
    # MemAvailable came with Linux 3.14; before that, free and page cache come nearest.
    fallback = fields.get("MemFree", 0) + fields.get("Cached", 0)
    return MemInfo(
        total_bytes=fields["MemTotal"] * KIB,
        available_bytes=fields.get("MemAvailable", fallback) * KIB,
        swap_total_bytes=fields.get("SwapTotal", 0) * KIB,
        swap_free_bytes=fields.get("SwapFree", 0) * KIB,
    )


def process_memory(pid: int, root: Path = ROOT) -> ProcessMemory | None:
    """/proc/PID/status; None when the process is gone, or a zombie without memory."""
    fields = _fields(read_text(root / f"proc/{pid}/status"))
    if "RssAnon" not in fields:
        return None
    return ProcessMemory(
        rss_anon_bytes=fields["RssAnon"] * KIB,
        rss_file_bytes=fields.get("RssFile", 0) * KIB,
        rss_shmem_bytes=fields.get("RssShmem", 0) * KIB,
        swap_bytes=fields.get("VmSwap", 0) * KIB,
        threads=fields.get("Threads", 0),
    )


def anon_bytes(pid: int, root: Path = ROOT) -> int:
    """Anonymous memory of a process, in memory and in swap; 0 when it is gone."""
    found = process_memory(pid, root)
    return found.rss_anon_bytes + found.swap_bytes if found else 0


def process_state(pid: int, root: Path = ROOT) -> str | None:
    """The kernel's state letter (R, S, D, T, Z, ...); None when the process is gone."""
    text = read_text(root / f"proc/{pid}/stat")
    # The name stands in brackets and may itself hold brackets and blanks.
    words = text.rpartition(")")[2].split() if text else []
    return words[0] if words else None


def boot_id(root: Path = ROOT) -> str | None:
    """A text that changes with every boot."""
    return read_text(root / "proc/sys/kernel/random/boot_id")


def _fields(text: str | None) -> dict[str, int]:
    """Lines "Name:   123 kB" → {"Name": 123}; lines without a number are left out."""
    fields: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split(maxsplit=1)[:1]
        if number and number[0].isdecimal():
            fields[name] = int(number[0])
    return fields
