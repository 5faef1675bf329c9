"""Finds the files with secrets that the configuration names, and reads the broker's password."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edged.transports.mqtt.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PASSWORD_BYTES = 65535  # the most an MQTT CONNECT can carry


def credential_path(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the file ``name`` is; a relative name is a systemd credential, in ``$CREDENTIALS_DIRECTORY``."""
    return Path(environ.get("CREDENTIALS_DIRECTORY", ".")) / name


def read_password(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The password in the file ``name``, without the line end that editors add.

    It is read at each attempt to connect, so that a corrected password needs no restart. Raises
    BrokerUnreachable.
    """
    if not name:
        return ""
    path = credential_path(name, environ)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PASSWORD_BYTES + 3)
        password = raw.decode().rstrip("\r\n")
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _unusable(path, "is not UTF-8 text") from None
    if not password or len(password.encode()) > MAX_PASSWORD_BYTES:
        raise _unusable(path, f"must hold 1 to {MAX_PASSWORD_BYTES} bytes")
    return password


def _unusable(path: Path, problem: str) -> BrokerUnreachable:
    return BrokerUnreachable(
        f"mqtt.password_file {path} {problem}", hint="write the password into that file, mode 0600"
    )
