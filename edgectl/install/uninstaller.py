"""Removes an installation: only forwards, each step safe to repeat, and what is left is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import EdgeError, RollbackFailed
from edgectl.install.installer import Installed, look
from edgectl.install.manifest import MANIFEST
from edgectl.install.operations import remove

if TYPE_CHECKING:
    from edgectl.install.host import Host
    from edgectl.install.places import Places
    from edgectl.install.systemd import UnitState


class Step(Struct, frozen=True, kw_only=True):
    """One thing to remove: a sentence for a person, and the deed."""

    describe: str
    do: Callable[[], None]


def removal(places: Places, host: Host, state: UnitState, *, purge: bool) -> list[Step]:
    """What there is to remove, in order; empty when nothing is installed."""
    installed = look(places)
    manifest = installed.manifest
    steps = [*_service_steps(places, host, state), *_config_steps(places, installed, purge=purge)]
    if manifest is not None and manifest.lingering and host.systemd.lingers(manifest.lingering):
        steps.append(
            Step(
                describe=f"let the services of {manifest.lingering} end with the login again",
                do=partial(host.systemd.set_linger, manifest.lingering, on=False),
            )
        )
    if purge:
        steps += [
            Step(describe=f"remove {path} with all models", do=partial(remove, path))
            for path in _state(places)
        ]
    record = places.record / MANIFEST
    if record.exists():
        steps.append(Step(describe=f"remove {record}", do=partial(remove, record)))
    return steps


def folders(places: Places) -> list[Path]:
    """The folders that installing made, innermost first; the manifest knows them as long as it is there."""
    manifest = look(places).manifest
    made = [Path(name) for name in manifest.created] if manifest is not None else []
    return list(dict.fromkeys([places.config.parent, *reversed(made)]))


def remove_empty(folders: list[Path]) -> None:
    """Remove those of ``folders`` that are empty; what something else lives in stays."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def kept(places: Places, *, purge: bool) -> list[Path]:
    """What stays after a removal without ``purge``."""
    if purge:
        return []
    installed = look(places)
    paths = [places.config] if installed.edited else []
    return [*paths, *(path for path in (places.backup, *places.keys, places.state) if path.exists())]


def carry_out(steps: list[Step], say: Callable[[str], None]) -> None:
    """Do all ``steps``; one that fails does not keep the rest from being done.

    Raises RollbackFailed naming what is left.
    """
    problems: list[str] = []
    for step in steps:
        say(step.describe)
        try:
            step.do()
        except (OSError, EdgeError) as error:
            said = error.message if isinstance(error, EdgeError) else str(error)
            problems.append(f"{step.describe}: {said}")
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise RollbackFailed(
            f"not everything could be removed:{listed}",
            hint="mend what is named above and run the same command again: it removes the rest",
        )


def _service_steps(places: Places, host: Host, state: UnitState) -> list[Step]:
    steps = []
    if state.load != "not-found" and (state.is_active or state.active == "failed"):
        steps.append(Step(describe="stop edged", do=host.systemd.stop))
    if state.is_enabled:
        steps.append(Step(describe="no longer start edged at boot", do=host.systemd.disable))
    if places.unit.exists():
        steps.append(Step(describe=f"remove {places.unit}", do=partial(_remove_unit, places, host)))
    return steps


def _config_steps(places: Places, installed: Installed, *, purge: bool) -> list[Step]:
    """A configuration that a person edited is theirs, and stays without ``purge``."""
    paths = []
    if installed.config_text is not None and (purge or not installed.edited):
        paths.append(places.config)
    if purge:
        paths += [path for path in (places.backup, *places.keys) if path.exists()]
    return [Step(describe=f"remove {path}", do=partial(remove, path)) for path in paths]


def _remove_unit(places: Places, host: Host) -> None:
    remove(places.unit)
    host.systemd.reload()


def _state(places: Places) -> list[Path]:
    """The state folder, and the link to it."""
    candidates = [path for path in (places.private, places.state) if path is not None]
    return [path for path in candidates if path.exists() or path.is_symlink()]
