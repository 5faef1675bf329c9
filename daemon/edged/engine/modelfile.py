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
from edged.host.files import UNREADABLE, write_atomic

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

log = logging.getLogger("edged.engine")

CHUNK_BYTES = 1 << 20  # as much memory as the check takes; the supervisor is small for as long as it lives


class Facts(Struct, frozen=True):
    """What changes when a file does."""

    path: str
    size_bytes: int
    modified_ns: int
    inode: int


class Seen(Struct, frozen=True):
    """The digest that a file had, right or wrong."""

    facts: Facts
    sha256: str


async def check_model(path: Path, sha256: str, memory: Path) -> None:
    """Raises ModelUnusable unless ``path`` can be read and has the digest ``sha256`` (empty: any).

    A file that has not changed since its digest was taken is not read again, whatever came of it;
    ``memory`` is the small file that remembers.
    """
    try:
        with path.open("rb") as file:
            if not sha256:
                return
            found = os.fstat(file.fileno())
            facts = Facts(str(path), found.st_size, found.st_mtime_ns, found.st_ino)
            seen = _remembered(memory)
            if seen is None or seen.facts != facts:
                log.info("checking the model file (%d MiB)", found.st_size >> 20)
                seen = Seen(facts, await _digest(file))
                _remember(memory, seen)
    except OSError as error:
        raise ModelUnusable(f"the model file {path} cannot be read: {error.strerror}") from error
    if seen.sha256 != sha256:
        raise ModelUnusable(
            f"the model file {path} has SHA-256 {seen.sha256[:16]}…, the configuration says {sha256[:16]}…",
            hint="`edgectl models verify` checks the store, `edgectl models pull` fetches the file again",
        )


def _remember(memory: Path, seen: Seen) -> None:
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
    except UNREADABLE:
        return None
