"""The API key: read once from a private file, kept as a digest, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path

from edged.api.errors import ConfigInvalid

MAX_KEY_FILE_BYTES = 4096
MIN_KEY_CHARS = 16  # below that, guessing over the network is practical
# Group may read (systemd credentials are 0440); nobody else may, and nobody but the owner may write.
FORBIDDEN_MODE = 0o037


class ApiKey:
    """Knows whether a token is the key, and nothing that would give the key away."""

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()

    def matches(self, token: bytes) -> bool:
        return hmac.compare_digest(hashlib.sha256(token).digest(), self._digest)


def read_api_key(name: str) -> ApiKey:
    """The key in the file of ``http.api_key_file``.

    A relative name is looked up in ``$CREDENTIALS_DIRECTORY`` (systemd credentials).
    Raises ConfigInvalid when the file is missing, open to others, or not one line of text.
    """
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", ".")) / name
    try:
        # A FIFO in place of the file must not hold up the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            raw = file.read(MAX_KEY_FILE_BYTES + 1) if stat.S_ISREG(about.st_mode) else b""
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(about.st_mode):
        raise _invalid(path, "is not a regular file")
    if about.st_mode & FORBIDDEN_MODE:
        mode = stat.S_IMODE(about.st_mode)
        raise _invalid(path, f"has mode {mode:04o}, so others can read or change it; run `chmod 600 {path}`")
    return ApiKey(_one_line(path, raw))


def _one_line(path: Path, raw: bytes) -> str:
    if len(raw) > MAX_KEY_FILE_BYTES:
        raise _invalid(path, f"is larger than {MAX_KEY_FILE_BYTES} bytes; it must hold one line, the key")
    key = raw.decode("ascii", "replace").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise _invalid(path, "must hold one line of printable ASCII without blanks, the key")
    if len(key) < MIN_KEY_CHARS:
        raise _invalid(path, f"holds a key of {len(key)} characters; at least {MIN_KEY_CHARS} are needed")
    return key


def _invalid(path: Path, problem: str) -> ConfigInvalid:
    return ConfigInvalid("the configuration", (f"http.api_key_file: {path} {problem}",))
