"""A file on its way into the store: locked, hashed while it is written, invisible until verified."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Self

from edgectl.errors import StorageFailed
from edgectl.models.storage import storage_errors
from edged.api.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import TypeAlias

    Progress: TypeAlias = Callable[[int], None]  # bytes that are there so far

CHUNK_BYTES = 1 << 20
SYNC_EVERY_BYTES = 64 << 20  # keeps the pages waiting for a slow card, and so the memory they take, small


class Partial:
    """One writer's hold on a ``.part`` file; a context manager that keeps or removes the file at its end.

    Opening raises Busy when another process holds it. Writing raises NoSpace or StorageFailed.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        self.path = path
        self.size_bytes = 0
        self._keep = keep
        self._hash = hashlib.sha256()
        self._unsynced_bytes = 0
        self._descriptor = -1
        self._placed = False  # whether ``path`` is ours to remove

    def __enter__(self) -> Self:
        with storage_errors("opening an unfinished file", self.path):
            self._descriptor = _open_locked(self.path)
        self._placed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor < 0:
            return
        if not self._keep or self.size_bytes == 0:
            self.discard()
        if self._placed:
            with contextlib.suppress(OSError):  # a failing disk was reported when it was written
                os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def resume(self, progress: Progress | None = None) -> int:
        """Take over the bytes that an earlier run left; how many. Hashes them."""
        with storage_errors("reading an unfinished download", self.path):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            while data := os.read(self._descriptor, CHUNK_BYTES):
                self._hash.update(data)
                self.size_bytes += len(data)
                if progress is not None:
                    progress(self.size_bytes)
        return self.size_bytes

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        with storage_errors("writing the model", self.path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self._unsynced_bytes += len(data)
            if self._unsynced_bytes >= SYNC_EVERY_BYTES:
                os.fdatasync(self._descriptor)
                self._unsynced_bytes = 0
        self._hash.update(data)
        self.size_bytes += len(data)

    def restart(self) -> None:
        """Drop everything written so far."""
        with storage_errors("emptying an unfinished file", self.path):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """Of the bytes written so far."""
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove the file."""
        if self._placed:
            self._placed = False
            with storage_errors("removing an unfinished file", self.path):
                self.path.unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        """Make the bytes durable and give them their final name, in one step."""
        with storage_errors("storing the model", target):
            os.fchmod(self._descriptor, 0o644)
            os.fsync(self._descriptor)
            self.path.replace(target)
        self._placed = False


def copy_into(target: Partial, source: int, path: Path, progress: Progress | None = None) -> None:
    """Append everything that the descriptor ``source`` of the file ``path`` still has to give."""
    while True:
        try:
            data = os.read(source, CHUNK_BYTES)
        except OSError as error:
            raise StorageFailed(
                f"{path} cannot be read after {target.size_bytes:,} bytes: {error.strerror}",
                hint="the stick or card may be failing; copy the file to another one",
            ) from error
        if not data:
            return
        target.write(data)
        if progress is not None:
            progress(target.size_bytes)


def remove_if_idle(path: Path) -> bool:
    """Remove the partial file at ``path`` unless a process holds it; whether it went."""
    try:
        with storage_errors("removing an unfinished file", path):
            descriptor = _open_locked(path)
    except Busy:
        return False
    try:
        with storage_errors("removing an unfinished file", path):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the partial file at ``path``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_locked(path: Path) -> int:
    """A descriptor with the lock on the file that ``path`` names now, not on one renamed away meanwhile."""
    while True:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
        )
        try:
            _lock(descriptor, path)
            if _is_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise StorageFailed(f"{path} is not a file", hint="something else put it there; remove it")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(
            "another edgectl is fetching this model right now",
            hint="wait until it has finished, then run it again",
        ) from None


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
