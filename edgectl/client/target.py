"""Where the box is when nobody says: the environment, this computer's edged.toml, else loopback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import Unauthorized, Usage
from edged.host import config as config_file
from edged.host.keys import own_key_path
from edged.host.paths import SYSTEM, default_paths

if TYPE_CHECKING:
    from edgectl.client.edge_client import EdgeClient
    from edged.api.config import Config

FALLBACK_URL = "http://127.0.0.1:8642"
MAX_KEY_BYTES = 4096


class Target(Struct, frozen=True):
    """An address, the file with the key for it, the files of TLS; ``source`` says where it came from."""

    url: str
    key_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    cert_key_file: Path | None = None
    source: str = "the command line"


def local_config_path() -> Path:
    """The edged.toml of this user, else of the system; the first one when neither is there."""
    own = default_paths().config
    return own if own.exists() or not SYSTEM.config.exists() else SYSTEM.config


def find_target(url: str | None = None, key_file: Path | None = None) -> Target:
    """The box to talk to: ``url``, else $EDGECTL_URL, else the local configuration, else loopback.

    ``key_file`` and $EDGECTL_KEY_FILE win over the key of this computer's own edgectl, which goes to the
    local box alone. Raises ConfigInvalid when the local configuration is broken.
    """
    named = os.environ.get("EDGECTL_KEY_FILE")
    key_file = key_file or (Path(named) if named else None)
    if url:
        return Target(url, key_file)
    if from_environment := os.environ.get("EDGECTL_URL"):
        return Target(from_environment, key_file, source="EDGECTL_URL")
    path = local_config_path()
    if not path.exists():
        return Target(FALLBACK_URL, key_file, source="the default address")
    return of_config(config_file.load(path), path, key_file)


def of_config(config: Config, path: Path, key_file: Path | None = None) -> Target:
    """The box that ``config``, read from ``path``, describes, seen from the same computer."""
    if config.http.enabled:
        # A wildcard address is where the daemon listens, not where one connects to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(config.http.host, config.http.host)
        host = f"[{host}]" if ":" in host else host
        key = key_file or _own_key(config)
        return Target(f"http://{host}:{config.http.port}", key, source=str(path))
    mqtt = config.mqtt
    user = f"{mqtt.username}@" if mqtt.username else ""
    host = f"[{mqtt.host}]" if ":" in mqtt.host else mqtt.host
    key = key_file or (Path(mqtt.password_file) if mqtt.password_file else None)
    return Target(
        f"{'mqtts' if mqtt.ca_file else 'mqtt'}://{user}{host}:{mqtt.port}/{mqtt.base}/{config.node}",
        key,
        Path(mqtt.ca_file) if mqtt.ca_file else None,
        Path(mqtt.cert_file) if mqtt.cert_file else None,
        Path(mqtt.key_file) if mqtt.key_file else None,
        source=str(path),
    )


def _own_key(config: Config) -> Path | None:
    """The file with the key of this computer's own edgectl, if there is one."""
    path = own_key_path(Path(config.http.keys_file)) if config.http.keys_file else None
    return path if path is not None and path.exists() else None


def read_key(path: Path) -> str:
    """The one line in the key file ``path``; raises Usage, or Unauthorized when it may not be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_KEY_BYTES + 1)
    except PermissionError:
        raise Unauthorized(
            f"you may not read the key file {path}",
            hint="run this as root, or name a copy of your own with --key-file",
        ) from None
    except OSError as error:
        raise Usage(f"the key file {path} cannot be read: {error.strerror}") from None
    key = raw.decode("utf-8", "replace").strip()
    if not key or len(raw) > MAX_KEY_BYTES or not key.isprintable():
        raise Usage(f"the key file {path} must hold one line of printable text, the key")
    return key


def connect(target: Target, *, timeout_s: float) -> EdgeClient:
    """A client for ``target``; nothing is connected yet."""
    from edgectl.client.edge_client import EdgeClient

    key = read_key(target.key_file) if target.key_file else None
    return EdgeClient(
        target.url,
        api_key=key,
        password=key,
        ca_file=target.ca_file,
        cert_file=target.cert_file,
        cert_key_file=target.cert_key_file,
        timeout_s=timeout_s,
    )
