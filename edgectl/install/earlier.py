"""A file as it was before it was replaced, with all that bringing it back needs."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.host.files import sync_directory, write_atomic

if TYPE_CHECKING:
    from pathlib import Path


class Earlier(Struct, frozen=True, kw_only=True):
    """``data`` need not be text. ``link`` is where the file pointed if it was a symbolic link, else empty."""

    data: bytes
    mode: int
    uid: int
    gid: int
    link: str = ""

    @classmethod
    def of(cls, path: Path) -> Earlier | None:
        """What is at ``path`` now; None when no file is. Raises OSError when it cannot be read."""
        try:
            data, about = path.read_bytes(), path.stat()
        except FileNotFoundError:
            return None
        return cls(
            data=data,
            mode=stat.S_IMODE(about.st_mode),
            uid=about.st_uid,
            gid=about.st_gid,
            link=str(path.readlink()) if path.is_symlink() else "",
        )

    def bring_back(self, path: Path) -> None:
        """Make ``path`` what it was; nothing is written when it still is that. Raises OSError."""
        if Earlier.of(path) == self:
            return
        if self.link:  # a replaced link left what it pointed to untouched
            torn = path.with_name(f".{path.name}.link.tmp")
            torn.unlink(missing_ok=True)
            torn.symlink_to(self.link)
            torn.replace(path)
            sync_directory(path.parent)
            return
        write_atomic(path, self.data, mode=self.mode)
        about = path.stat()
        if (about.st_uid, about.st_gid) != (self.uid, self.gid):
            os.chown(path, self.uid, self.gid)
