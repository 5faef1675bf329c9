"""Remembers jobs over restarts, in one small file."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from edged.host.files import UNREADABLE, write_atomic
from edged.maintenance.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger("edged.maintenance")


class Journal:
    """The jobs as they were when they last changed their state."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()  # a later state is not overtaken by an earlier one

    def read(self) -> list[Record]:
        """Nothing when there is no journal, or none that can be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Record])
        except FileNotFoundError:
            return []
        except UNREADABLE as error:
            log.warning("the journal of jobs is left aside: %s", error)
            return []

    async def write(self, records: Iterable[Record]) -> None:
        """Durable when it returns. Raises OSError."""
        async with self._lock:
            await asyncio.to_thread(self._write, msgspec.json.encode(list(records)))

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, data)
