"""Weightless replicas on disk: model files of full size whose weights are holes.

Memory and speed of a dense model depend on the shapes and types of its tensors and on its tokenizer, not on
the values: a replica shows both before anybody downloads gigabytes. In a mixture of experts all tokens of a
replica choose the same experts, so its prompts are read faster than the real ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from typing import TYPE_CHECKING, Final

from edgectl.errors import StorageFailed
from edgectl.models.storage import require_space, storage_errors
from edgectl.probe.blockdevice import MEMORY_FILESYSTEMS, mount_of
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgectl.models.replica_plan import ReplicaPlan

__all__ = ["replica", "write_replica"]

_PROBE_BYTES: Final = 16 << 20  # a hole this large is tried first: filling gigabytes wears a card out
_BLOCK_BYTES: Final = 512  # st_blocks counts these, stat(2)
_NAME: Final = re.compile(r"\.edged-replica-(\d+)-[0-9a-f]{8}\.gguf")  # with the process that made it
_HINT: Final = "name a folder on a disk with ext4, xfs, btrfs or f2fs, not on a memory stick or in memory"


@contextlib.contextmanager
def replica(plan: ReplicaPlan, folder: Path) -> Iterator[Path]:
    """A replica in ``folder`` for the length of the block; it is gone afterwards, however the block ends.

    What a killed process left there is removed first. Raises NoSpace or StorageFailed.
    """
    with storage_errors("preparing the folder of a replica", folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    path = folder / f".edged-replica-{os.getpid()}-{secrets.token_hex(4)}.gguf"
    descriptor = -1
    try:
        descriptor = _create(path, plan)
        yield path
    finally:
        path.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def write_replica(path: Path, plan: ReplicaPlan) -> None:
    """Write a replica to ``path`` to stay, whole or not at all. Raises NoSpace or StorageFailed."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(_create(part, plan))
        with storage_errors("placing a replica", path):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _create(path: Path, plan: ReplicaPlan) -> int:
    """Write ``path``; the descriptor holds a lock that tells a replica in use from one left behind."""
    mount = mount_of(ROOT, path.parent.resolve())
    if mount is not None and mount.filesystem in MEMORY_FILESYSTEMS:
        raise StorageFailed(
            f"{path.parent} is in memory ({mount.filesystem}), which holes would fill when they are read",
            hint=_HINT,
        )
    header = plan.header()
    require_space(path.parent, len(header) + _PROBE_BYTES, "a weightless replica")
    with storage_errors("writing a replica", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(header)
            _check_holes(descriptor, path, len(header))
            os.ftruncate(descriptor, len(header) + plan.weights_bytes)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _check_holes(descriptor: int, path: Path, header_bytes: int) -> None:
    os.ftruncate(descriptor, header_bytes + _PROBE_BYTES)
    os.fsync(descriptor)  # blocks are counted once they are allocated
    taken_bytes = os.fstat(descriptor).st_blocks * _BLOCK_BYTES
    if taken_bytes > header_bytes + _PROBE_BYTES // 2:
        raise StorageFailed(
            f"the file system of {path.parent} keeps no holes: {taken_bytes >> 20} MiB went to nothing",
            hint=_HINT,
        )


def _sweep(folder: Path) -> None:
    """Remove replicas whose maker is gone and that no process holds any more."""
    for path in folder.iterdir():
        name = _NAME.fullmatch(path.name)
        if name is None or (ROOT / "proc" / name.group(1)).exists():
            continue
        with contextlib.suppress(OSError):  # somebody else's, in use, or gone already
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
