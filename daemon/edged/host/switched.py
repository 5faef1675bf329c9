"""The model that is served in place of the configured one, in a small file of the state folder.

The configuration belongs to whoever installed edged, and the service cannot write it. So the choice is
kept here, for as long as ``[model]`` of the configuration stays what it was when the choice was made.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from edged.api.config import Config, Model, Plan
from edged.host.config import broken_rules
from edged.host.files import UNREADABLE, sync_directory, write_atomic

log = logging.getLogger("edged")

FILE = "switched.json"
MAX_BYTES = 256 * 1024


class Switched(Struct, frozen=True, kw_only=True):
    """What is served since the job ``job``, and the ``[model]`` that it stands in for."""

    job: str
    instead_of: Model
    model: Model
    cache_mib: int
    plan: Plan = Plan()


def read_switched(state_dir: Path) -> Switched | None:
    """The choice that is kept in ``state_dir``; None without one, or when it cannot be read."""
    try:
        with (state_dir / FILE).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=Switched)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        log.warning("%s is left aside: %s", state_dir / FILE, error)
        return None


def keep_switched(state_dir: Path, switched: Switched | None) -> None:
    """Keep the choice, durably; None: the configured model. Raises OSError."""
    path = state_dir / FILE
    if switched is not None:
        write_atomic(path, msgspec.json.encode(switched))
    elif path.exists():
        path.unlink()
        sync_directory(state_dir)


def with_switched(config: Config, state_dir: Path) -> Config:
    """``config`` with the model that was chosen in its place, where that choice still holds.

    It does not when ``[model]`` was changed since, or the file is gone, or a rule is broken.
    """
    found = read_switched(state_dir)
    if found is None:
        return config
    changed = applied(config, found)
    why = ""
    if found.instead_of != config.model:
        why = "the configured model was changed since"
    elif not Path(found.model.path).is_file():
        why = f"there is no file {found.model.path}"
    elif broken := broken_rules(changed):
        why = broken[0]
    if why:
        log.warning("%s was served last and is not any more: %s", found.model.name, why)
        return config
    return changed


def applied(config: Config, switched: Switched) -> Config:
    """``config`` with the model of ``switched``."""
    memory = structs.replace(config.memory, cache_mib=switched.cache_mib)
    return structs.replace(config, model=switched.model, memory=memory, plan=switched.plan)
