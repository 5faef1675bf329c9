"""Removes an installation: only forwards, each step safe to repeat, and what is left is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from os.path import lexists  # unlike Path.exists(), it needs no permission to look inside
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import EdgeError, RollbackFailed
from edgectl.install.installer import Installed, look
from edgectl.install.manifest import MANIFEST
from edgectl.install.operations import remove
from edgectl.install.unit import credential_sources

if TYPE_CHECKING:
    from edgectl.install.host import Host
    from edgectl.install.places import Places
    from edgectl.install.systemd import UnitState


class Step(Struct, frozen=True, kw_only=True):
    """One thing to remove: a sentence for a person, and the deed.

    ``is_record``: what the next run needs to know, and so only removed when nothing else is left.
    """

    describe: str
    do: Callable[[], None]
    is_record: bool = False


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
    if lexists(record):
        steps.append(Step(describe=f"remove {record}", do=partial(remove, record), is_record=True))
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
    """What stays after a removal; with ``purge`` only the files of a person's own that the service read."""
    installed = look(places)
    if not purge:
        paths = [places.config] if installed.edited else []
        return [*paths, *(path for path in (places.backup, *places.keys, places.state) if lexists(path))]
    told = installed.before.options
    named = [getattr(told, name) for name in told.__struct_fields__ if name.endswith("_file")]
    named += [installed.config.http.keys_file] if installed.config else []
    named += credential_sources(installed.before.unit).values()
    paths = list(dict.fromkeys(Path(name) for name in named if name))
    return [path for path in paths if path not in places.keys and lexists(path)]


def carry_out(steps: list[Step], say: Callable[[str], None]) -> None:
    """Do all ``steps``; one that fails does not keep the rest from being done.

    Raises RollbackFailed naming what is left.
    """
    problems: list[str] = []
    for step in steps:
        if step.is_record and problems:
            continue
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
    if lexists(places.unit):
        steps.append(Step(describe=f"remove {places.unit}", do=partial(_remove_unit, places, host)))
    return steps


def _config_steps(places: Places, installed: Installed, *, purge: bool) -> list[Step]:
    """A configuration that a person edited is theirs, and stays without ``purge``."""
    paths = []
    if installed.config_text is not None and (purge or not installed.edited):
        paths.append(places.config)
    if purge:
        paths += [path for path in (places.backup, *places.keys) if lexists(path)]
    return [Step(describe=f"remove {path}", do=partial(remove, path)) for path in paths]


def _remove_unit(places: Places, host: Host) -> None:
    remove(places.unit)
    host.systemd.reload()


def _state(places: Places) -> list[Path]:
    """The state folder, and the link to it."""
    candidates = [path for path in (places.private, places.state) if path is not None]
    return [path for path in candidates if lexists(path)]
