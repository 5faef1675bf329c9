"""What a disk can take: the free-space check, and the name of every way it fails."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgectl.errors import EdgeError, NeedsRoot, NoSpace, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RESERVE_BYTES = 64 << 20  # left free, so that logs and the journal of a small box go on
_FULL = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(path: Path) -> int:
    """Bytes an unprivileged process may still write at ``path`` or its nearest existing parent."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    figures = os.statvfs(place)
    return figures.f_bavail * figures.f_frsize


def require_space(path: Path, needed_bytes: int, what: str) -> None:
    """Raise NoSpace unless ``what`` fits at ``path`` and leaves :data:`RESERVE_BYTES` free."""
    free = free_bytes(path)
    if free - RESERVE_BYTES < needed_bytes:
        raise NoSpace(
            f"{what} needs {_mib(needed_bytes)} in {path}, where {_mib(free)} are free "
            f"and {_mib(RESERVE_BYTES)} stay in reserve",
            hint="make room (`edgectl models list`, `edgectl models rm`), choose a smaller quantization, "
            "or set EDGED_STATE to a folder on a larger disk",
        )


@contextmanager
def storage_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into the EdgeError that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing, path) from error


def storage_error(error: OSError, doing: str, path: Path) -> EdgeError:
    """The error for ``error`` while ``doing`` something with ``path``."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return NoSpace(
            f"the disk ran full while {doing} ({path}; {_mib(free_bytes(path))} free)",
            hint="make room (`edgectl models list`, `edgectl models rm`) and run the command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run it as the owner of that folder, or set EDGED_STATE to a folder of your own"
        if os.geteuid() != 0:
            return NeedsRoot(
                f"no permission while {doing} ({path})", hint=f"run it with sudo; otherwise {hint}"
            )
        return StorageFailed(f"no permission while {doing} ({path})", hint=hint)
    if error.errno == errno.EROFS:
        return StorageFailed(
            f"the file system is read-only: {doing} failed ({path})",
            hint="a card that turned read-only is often failing: check `dmesg`, or set EDGED_STATE elsewhere",
        )
    return StorageFailed(
        f"{doing} failed: {reason} ({path})", hint="check the disk: `dmesg` shows read and write errors"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MiB"
