"""Atomic and durable writes, and small bounded reads."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

# What a small JSON file of ours can raise when it is absent, or damaged in any way.
UNREADABLE = (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Put ``data`` at ``path`` whole or not at all, and make it survive a power cut.

    Raises OSError; then ``path`` is what it was before.
    """
    payload = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, *, limit: int = 65536) -> str | None:
    """The text of a small file of /proc or /sys, stripped; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "replace").strip("\x00 \n\t")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The integer in a small file; None when it is absent or not a number ("max")."""
    text = read_text(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None
