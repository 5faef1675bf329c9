"""Who may ask: the keys in force, read again when their file has changed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from edged.api.errors import ConfigInvalid
from edged.host.keys import Checker, StoredKey, read_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0  # how long a removed key may still be taken


class KeyRing:
    """The keys of ``http.keys_file``. Between requests nobody looks at the file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigInvalid when the file cannot be used or holds no key."""
        self._path = path
        self._clock = clock
        self.trouble = ""  # why a change of the file was not taken over
        self._seen = self._stamp()
        self._looked_at = clock()
        try:
            self._take(read_keys(path))
        except FileNotFoundError:
            raise _keyless(path, "does not exist") from None
        if not self._keys:
            raise _keyless(path, "holds no key")

    def name_of(self, token: bytes) -> str | None:
        """The name of the key that ``token`` is."""
        self._refresh()
        return self._checker.name_of(token)

    def key(self, name: str) -> StoredKey | None:
        """What is kept of the key ``name``; None when it was removed meanwhile."""
        return self._keys.get(name)

    def _take(self, keys: dict[str, StoredKey]) -> None:
        self._keys = keys
        self._checker = Checker(keys)

    def _refresh(self) -> None:
        """Take over a changed file. One that is broken changes nothing; one that is gone holds no key."""
        now = self._clock()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        seen = self._stamp()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._take(read_keys(self._path))
        except FileNotFoundError:
            self._take({})
        except ConfigInvalid as error:
            self.trouble = "; ".join(error.problems)
            log.error("keys: not taken over: %s", self.trouble)  # noqa: TRY400 - a traceback tells nothing more
            return
        self.trouble = ""
        log.info("keys: read again, %d in force", len(self._keys))

    def _stamp(self) -> tuple[int, ...]:
        """Changes when the file does: every change by `edgectl` makes a new inode."""
        try:
            about = self._path.stat()
        except OSError:
            return ()
        return about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size


def _keyless(path: Path, problem: str) -> ConfigInvalid:
    text = f"http.keys_file: {path} {problem}, so nobody could ask; `edgectl keys add NAME` makes a key"
    return ConfigInvalid("the configuration", (text,))
