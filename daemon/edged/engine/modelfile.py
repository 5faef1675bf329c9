"""Checks that the model file is the one the configuration names, once for each state of the file."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edged.api.errors import ModelUnusable
from edged.host.files import write_atomic

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

log = logging.getLogger("edged.engine")

CHUNK_BYTES = 1 << 20  # as much memory as the check takes; the supervisor is small for as long as it lives


class Seen(Struct, frozen=True):
    """A file as it was when its hash was taken."""

    path: str
    size_bytes: int
    modified_ns: int
    inode: int
    sha256: str


async def check_model(path: Path, sha256: str, memory: Path) -> None:
    """Raises ModelUnusable unless ``path`` can be read and has the digest ``sha256`` (empty: any).

    A file that has not changed since its digest was taken (size, time, inode) is not read again;
    ``memory`` is the small file that remembers.
    """
    try:
        with path.open("rb") as file:
            if not sha256:
                return
            facts = os.fstat(file.fileno())
            seen = Seen(str(path), facts.st_size, facts.st_mtime_ns, facts.st_ino, sha256)
            if seen == _remembered(memory):
                return
            log.info("checking the model file (%d MiB)", facts.st_size >> 20)
            digest = await _digest(file)
    except OSError as error:
        raise ModelUnusable(f"the model file {path} cannot be read: {error.strerror}") from error
    if digest != sha256:
        raise ModelUnusable(
            f"the model file {path} has SHA-256 {digest[:16]}…, the configuration says {sha256[:16]}…",
            hint="`edgectl models verify` checks the store, `edgectl models pull` fetches the file again",
        )
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, msgspec.json.encode(seen))
    except OSError as error:
        log.warning("the digest cannot be kept, the next start reads the file again: %s", error)


async def _digest(file: BufferedReader) -> str:
    """The digest of what is left of ``file``, through one buffer; a stop waits for one chunk at most."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while size_bytes := await asyncio.to_thread(file.readinto, buffer):
        await asyncio.to_thread(digest.update, buffer[:size_bytes])
    return digest.hexdigest()


def _remembered(memory: Path) -> Seen | None:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=Seen)
    except (OSError, msgspec.DecodeError):
        return None
