"""A file of API keys whose keys a test knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edged.host.keys import SALT_BYTES, StoredKey, read_keys, stored, write_keys

if TYPE_CHECKING:
    from pathlib import Path

KEY = "edged_a-key-that-only-the-tests-and-their-clients-know"


def put_keys(path: Path, tokens: dict[str, str] | None = None, **limits: int) -> Path:
    """Write ``path`` with a key for each name in ``tokens`` (default: KEY called "phone")."""
    tokens = tokens or {"phone": KEY}
    keys: dict[str, StoredKey] = {
        name: stored(token, os.urandom(SALT_BYTES), **limits) for name, token in tokens.items()
    }
    write_keys(path, keys)
    assert read_keys(path) == keys
    return path
