"""Evaluated system messages on disk: a restart need not read them again.

A file is a frame with a :class:`Header`, then the state. It is used only when it was written by the same
engine for the same model with the same options, is whole, and the engine accepts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edged.ipc.frames import HEADER, MAX_FRAME_BYTES, pack
from edged.worker.backends.base import State, StateError, new_state
from edged.worker.prefixes import TOKEN_BYTES, Prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from edged.ipc.messages import Keep

log = logging.getLogger("edged.worker")

SUFFIX = ".prefix"
CHUNK_BYTES = 1 << 20


class KeptError(Exception):
    """A file is no prefix that can be used here; the text says why."""


class Header(Struct, frozen=True, kw_only=True):
    """``key`` names engine, model and options; ``tokens`` are a prefix's key, ``sha256`` is the state's."""

    key: str
    tokens: bytes
    size_bytes: int
    sha256: str


class KeptPrefixes:
    """At most ``order.most`` files in ``order.folder``; those that were not used for longest go first.

    Files that cannot be used here are removed. Whatever the disk does, no request fails by it.
    """

    def __init__(self, order: Keep) -> None:
        self._key = order.key
        self._most = order.most
        self._folder = Path(order.folder)
        self._writer: threading.Thread | None = None

    def read(self, limit_bytes: int) -> Iterator[Prefix[State]]:
        """The prefixes on disk, the last used first, as long as they fit ``limit_bytes`` together."""
        for path in self._files():
            try:
                prefix = self._read(path, limit_bytes)
            except (OSError, KeptError, StateError) as error:
                log.warning("the kept prefix %s is of no use and removed: %s", path.name, error)
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            if prefix is not None:
                limit_bytes -= prefix.size_bytes
                yield prefix

    def refuse(self, prefix: Prefix[State], why: object) -> None:
        """The engine did not accept it."""
        log.warning("a kept prefix is refused by the engine and removed: %s", why)
        with contextlib.suppress(OSError):
            self._path(prefix).unlink()

    def write(self, prefix: Prefix[State]) -> None:
        """In the background; one that comes while another is written has to prove useful again."""
        if self._writer is None or not self._writer.is_alive():
            self._writer = threading.Thread(target=self._write, args=(prefix,), name="kept", daemon=True)
            self._writer.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._writer is not None:
            self._writer.join()

    # --- files ----------------------------------------------------------------------------

    def _path(self, prefix: Prefix[State]) -> Path:
        name = hashlib.sha256(self._key.encode() + prefix.key).hexdigest()[:32]
        return self._folder / f"{name}{SUFFIX}"

    def _files(self) -> list[Path]:
        """The last used first."""
        try:
            found = [(path.stat().st_mtime_ns, path) for path in self._folder.glob(f"*{SUFFIX}")]
        except OSError:
            return []
        return [path for _, path in sorted(found, reverse=True)]

    def _read(self, path: Path, limit_bytes: int) -> Prefix[State] | None:
        """None when it does not fit. Raises OSError, StateError or KeptError."""
        with path.open("rb") as file:
            header = _header(file)
            if header.key != self._key:
                raise KeptError("it belongs to another engine, model or configuration")
            if os.fstat(file.fileno()).st_size - file.tell() != header.size_bytes:
                raise KeptError("it is not whole")
            size_bytes = header.size_bytes + len(header.tokens)
            if size_bytes > limit_bytes:
                return None
            state = new_state(header.size_bytes)
            if _fill(state, file) != header.sha256:
                raise KeptError("it is damaged")
        return Prefix(header.tokens, state, size_bytes, shared=True)

    def _write(self, prefix: Prefix[State]) -> None:
        path = self._path(prefix)
        part = path.with_suffix(".part")
        try:
            if path.exists():
                os.utime(path)
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            header = Header(
                key=self._key,
                tokens=prefix.key,
                size_bytes=len(prefix.state),
                sha256=hashlib.sha256(prefix.state).hexdigest(),
            )
            with part.open("wb") as file:
                file.write(pack(msgspec.msgpack.encode(header)))
                file.write(prefix.state)
            part.replace(path)
            for old in self._files()[self._most :]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a prefix of %d tokens cannot be kept on disk: %s", prefix.length, error)
            with contextlib.suppress(OSError):
                part.unlink()


def _header(file: BufferedReader) -> Header:
    """Leaves ``file`` where the state begins."""
    try:
        (length,) = HEADER.unpack(file.read(HEADER.size))
        header = msgspec.msgpack.decode(file.read(min(length, MAX_FRAME_BYTES)), type=Header)
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeptError(f"it does not begin like a prefix: {error}") from error
    if header.size_bytes <= 0 or not header.tokens or len(header.tokens) % TOKEN_BYTES:
        raise KeptError("its header contradicts itself")
    return header


def _fill(state: State, file: BufferedReader) -> str:
    """Read the whole of ``state``; its SHA-256."""
    digest = hashlib.sha256()
    view = memoryview(state)
    for start in range(0, len(view), CHUNK_BYTES):
        part = view[start : start + CHUNK_BYTES]
        if file.readinto(part) != len(part):
            raise KeptError("it is not whole")
        digest.update(part)
    return digest.hexdigest()
