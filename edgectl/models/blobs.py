"""Says whether the file behind a hash is there and still is what its name says."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BlobState = Literal["ok", "damaged", "missing", "unreadable"]

CHUNK_BYTES = 1 << 20


def examine(path: Path, sha256: str, progress: Callable[[int], None] | None = None) -> tuple[BlobState, str]:
    """Hash the file at ``path`` and compare; the state, and words for a person when it is not "ok".

    ``progress`` gets the bytes read so far.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing", "its file is not in the store"
    except OSError as error:
        return "unreadable", "it is a link" if path.is_symlink() else (error.strerror or str(error))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return "unreadable", "it is not a regular file"
        found = _hash(descriptor, progress)
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    finally:
        os.close(descriptor)
    return ("ok", "") if found == sha256 else ("damaged", f"its SHA-256 is now {found}")


def hash_file(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of the file at ``path``. Raises OSError."""
    with path.open("rb") as file:
        return _hash(file.fileno(), progress)


def _hash(descriptor: int, progress: Callable[[int], None] | None) -> str:
    digest = hashlib.sha256()
    done_bytes = 0
    while data := os.read(descriptor, CHUNK_BYTES):
        digest.update(data)
        done_bytes += len(data)
        if progress is not None:
            progress(done_bytes)
    return digest.hexdigest()
