"""Where edged keeps things: the system's places for root, the XDG places for a user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from edged.api.config import Config


class Paths(Struct, frozen=True):
    """``state`` holds models and verdicts, ``config`` the file that edged reads."""

    config: Path
    state: Path
    runtime: Path

    @property
    def models(self) -> Path:
        return self.state / "models"


JOBS = "jobs.json"  # in the state folder of the daemon: the journal of jobs
SYSTEM = Paths(Path("/etc/edged/edged.toml"), Path("/var/lib/edged"), Path("/run/edged"))


def user_paths() -> Paths:
    """The places of one user, from the XDG variables and their defaults."""
    home = _home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or data / "edged/run")
    return Paths(config / "edged/edged.toml", data / "edged", runtime / "edged")


def _home() -> Path:
    """The home folder; a path that does not exist for a user without one (systemd's DynamicUser=)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def state_folder(config: Config) -> Path:
    """Where a daemon with ``config`` keeps its state; systemd names the place of a service."""
    return Path(config.state_dir or os.environ.get("STATE_DIRECTORY") or default_paths().state)


def default_paths(*, user: bool | None = None) -> Paths:
    """System places for root or ``user=False``; the user's own otherwise.

    ``EDGED_STATE`` moves the state folder of either (tests, external disks).
    """
    paths = user_paths() if (os.geteuid() != 0 if user is None else user) else SYSTEM
    moved = os.environ.get("EDGED_STATE")
    return Paths(paths.config, Path(moved), Path(moved) / "run") if moved else paths
