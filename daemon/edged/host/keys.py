"""The file of API keys: names, salted hashes and limits. A key itself is nowhere but with its client."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
import tomllib
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from edged.api.errors import ConfigInvalid
from edged.host.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,48}")  # needs no quotes in TOML
MAX_KEYS = 64  # each is tried against a token: 0.1 ms in all
MAX_FILE_BYTES = 65536
SALT_BYTES = 16
HASH_BYTES = 32
KEY_BYTES = 32  # of randomness in a key
PREFIX = "edged_"  # so that people, and searches for leaked secrets, know what it is
# Its hashes give nothing away, and the service has a user of its own that must read them. But whoever could
# write them could let himself in.
FILE_MODE = 0o644
FORBIDDEN_MODE = 0o022
MOST = {"per_minute": 1000, "at_once": 1024, "max_tokens": 1 << 20}  # of the limits; the least is 0: none

HEADER = """\
# Written by `edgectl keys`; edged notices a change by itself. A key cannot be made from its hash again.
# per_minute, at_once and max_tokens of a key may be edited here: requests a minute, requests at the same
# time, tokens of one answer.
"""


class StoredKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a key. A limit of 0 is none beyond those of the box; ``created`` is a date."""

    salt: str
    hash: str
    created: str = ""
    per_minute: int = 0  # requests in any 60 s
    at_once: int = 0  # requests unanswered at the same time
    max_tokens: int = 0  # of one answer


def digest(token: bytes, salt: bytes) -> bytes:
    """One fast hash is enough: nobody guesses 256 random bits, so there is nothing to slow down.

    A slow one (scrypt, Argon2) defends what people choose, and would cost a Raspberry Pi a tenth of a
    second and megabytes for every request. The salt keeps equal keys on two boxes from looking equal.
    """
    return hashlib.blake2b(token, digest_size=HASH_BYTES, salt=salt, person=b"edged api key").digest()


def stored(token: str, salt: bytes, **fields: int | str) -> StoredKey:
    """``token`` as it is kept."""
    kept: StoredKey = structs.replace(
        StoredKey(salt=salt.hex(), hash=digest(token.encode(), salt).hex()), **fields
    )
    return kept


class Checker:
    """Knows which key a token is; keeps no key, and takes as long for each as for none."""

    def __init__(self, keys: Mapping[str, StoredKey]) -> None:
        self._keys = [(name, bytes.fromhex(key.salt), bytes.fromhex(key.hash)) for name, key in keys.items()]

    def name_of(self, token: bytes) -> str | None:
        """The name of the key that ``token`` is; every hash is computed and compared whole."""
        found = None
        for name, salt, expected in self._keys:
            if hmac.compare_digest(digest(token, salt), expected):
                found = name
        return found


def read_keys(path: Path) -> dict[str, StoredKey]:
    """The keys in ``path`` by their names. Raises FileNotFoundError, and ConfigInvalid with all problems."""
    try:
        # A FIFO in place of the file must not hold up the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            raw = file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(about.st_mode) else b""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _invalid(path, [f"cannot be read: {error.strerror}"]) from None
    if not stat.S_ISREG(about.st_mode):
        raise _invalid(path, ["is not a regular file"])
    if about.st_mode & FORBIDDEN_MODE:
        mode = stat.S_IMODE(about.st_mode)
        raise _invalid(path, [f"has mode {mode:04o}, so others can change it; run `chmod 644 {path}`"])
    if len(raw) > MAX_FILE_BYTES:
        raise _invalid(path, [f"has more than the {MAX_FILE_BYTES} bytes that make sense"])
    return _parsed(path, raw)


def write_keys(path: Path, keys: Mapping[str, StoredKey]) -> None:
    """Put ``keys`` into ``path``, whole or not at all. Raises OSError."""
    default = StoredKey(salt="", hash="")
    lines = [HEADER]
    for name, key in keys.items():
        lines.append(f"[{name}]")
        for field, value in structs.asdict(key).items():
            if value != getattr(default, field):
                lines.append(f"{field} = {json.dumps(value)}")
        lines.append("")
    write_atomic(path, "\n".join(lines), mode=FILE_MODE)


def own_key_path(keys_file: Path) -> Path:
    """Where the key is that `edgectl` on this computer uses; readable for its owner alone."""
    return keys_file.with_name("edgectl.key")


def _parsed(path: Path, raw: bytes) -> dict[str, StoredKey]:
    try:
        tree = tomllib.loads(raw.decode())
    except (ValueError, RecursionError):  # what it says may be a secret in the wrong place
        raise _invalid(path, ["is not TOML as `edgectl keys` writes it"]) from None
    found: dict[str, StoredKey] = {}
    problems: list[str] = []
    for name, table in tree.items():
        if not NAME_PATTERN.fullmatch(name):
            problems.append("a name has 1 to 48 characters of A-Z a-z 0-9 _ -")
            continue
        try:
            found[name] = msgspec.convert(table, StoredKey)
        except msgspec.ValidationError:
            problems.append(f"[{name}] has salt and hash, created, per_minute, at_once, max_tokens alone")
            continue
        problems += [f"[{name}] {problem}" for problem in _problems(found[name])]
    if len(found) > MAX_KEYS:
        problems.append(f"has {len(found)} keys; {MAX_KEYS} are allowed")
    if problems:
        raise _invalid(path, problems)
    return found


def _problems(key: StoredKey) -> Iterable[str]:
    for field, size_bytes in (("salt", SALT_BYTES), ("hash", HASH_BYTES)):
        if not re.fullmatch(rf"[0-9a-f]{{{2 * size_bytes}}}", getattr(key, field)):
            yield f"{field} must be {2 * size_bytes} hexadecimal digits"
    for field, most in MOST.items():
        if not 0 <= getattr(key, field) <= most:
            yield f"{field} must be between 0 and {most}"


def _invalid(path: Path, problems: Iterable[str]) -> ConfigInvalid:
    return ConfigInvalid("the configuration", tuple(f"http.keys_file: {path}: {text}" for text in problems))
