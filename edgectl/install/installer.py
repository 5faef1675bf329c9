"""Decides which operations lead from what is installed to what should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from edgectl.install.desired import Before, Desired
from edgectl.install.earlier import Earlier
from edgectl.install.manifest import (
    MANIFEST,
    Computer,
    Manifest,
    Options,
    as_bytes,
    digest,
    manifest_text,
    read_manifest,
)
from edgectl.install.operations import (
    CreateFolder,
    EnableLinger,
    EnableService,
    KeepState,
    Prove,
    PutFile,
    PutRecord,
    PutUnit,
    Recorded,
    StartService,
    StopService,
)
from edgectl.install.unit import start_timeout_s
from edged import __version__
from edged.api.config import Config
from edged.api.errors import ConfigInvalid
from edged.host.config import default_node, load

if TYPE_CHECKING:
    from edgectl.install.places import Places
    from edgectl.install.systemd import UnitState


class Installed(Struct, frozen=True, kw_only=True):
    """What is on the disk now: facts, nothing changed to learn them. None is a file that is not there.

    In texts, bytes that are not UTF-8 are surrogates (`manifest.as_bytes`).
    ``problems`` are those of a configuration that is not valid.
    """

    manifest: Manifest | None
    config_text: str | None
    unit_text: str | None
    config: Config | None
    problems: tuple[str, ...] = ()

    @property
    def edited(self) -> bool:
        """Whether a person changed the configuration, or wrote it."""
        if self.config_text is None:
            return False
        return self.manifest is None or digest(self.config_text) != self.manifest.config_sha256

    @property
    def before(self) -> Before:
        options = self.manifest.options if self.manifest else Options()
        return Before(config=self.config, unit=self.unit_text or "", options=options)


class Wanted(Struct, frozen=True, kw_only=True):
    """What should be there. ``lingering`` is the user whose lingering has to be turned on, if any."""

    options: Options
    computer: Computer
    desired: Desired
    command: tuple[str, ...]
    model_bytes: int
    start: bool = True
    lingering: str = ""
    made: tuple[Path, ...] = ()  # folders that this run made before, outermost first


def look(places: Places) -> Installed:
    """What is installed at ``places``."""
    config_text = _read(places.config)
    problems: tuple[str, ...] = ()
    try:
        config = None if config_text is None else load(places.config)
    except ConfigInvalid as error:
        config, problems = None, error.problems  # it is replaced, and kept as a backup
    if config is not None and config.node == default_node():
        config = structs.replace(config, node="")  # the host name may change, and the node with it
    return Installed(
        manifest=read_manifest(places.record),
        config_text=config_text,
        unit_text=_read(places.unit),
        config=config,
        problems=problems,
    )


Verdict = Literal["same", "starting", "stopped", "different"]


def compare(
    installed: Installed, asked: Options, computer: Computer, command: tuple[str, ...], state: UnitState
) -> Verdict:
    """Whether what is there is what these options over the earlier ones, computer and code would give again.

    What is asked counts over what a person edited since; a model to choose anew ("auto") is never the same.
    "starting" is a service that runs and is not ready yet, or never will be.
    """
    manifest = installed.manifest
    if (
        manifest is None
        or installed.config is None
        or installed.unit_text is None
        or digest(installed.unit_text) != manifest.unit_sha256
        or (manifest.version, manifest.command) != (__version__, command)
        or not manifest.computer.is_like(computer)
        or asked.over(manifest.options) != manifest.options
        or (installed.edited and asked != Options())
        or not _is_file(Path(installed.config.model.path))
        or not state.is_enabled
        or (manifest.unstarted and state.is_active)
    ):
        return "different"
    if state.active == "active":
        return "same"
    return "starting" if state.is_active else "stopped"


def operations(wanted: Wanted, installed: Installed, places: Places, state: UnitState) -> list[Recorded]:
    """The steps to ``wanted``, in order."""
    missing = _missing_folders(places)
    steps: list[Recorded] = [CreateFolder(path=str(path)) for path in missing]
    if state.is_active and wanted.start:
        patience_s = start_timeout_s(_model_bytes(installed))
        steps.append(StopService(was_ready=state.active == "active", timeout_s=patience_s))
    steps += _config_steps(wanted, installed, places)
    if installed.unit_text != wanted.desired.unit_text or state.load == "not-found":
        steps.append(
            PutUnit(
                path=str(places.unit),
                data=wanted.desired.unit_text.encode(),
                before=Earlier.of(places.unit),
            )
        )
    if wanted.lingering:
        steps.append(EnableLinger(name=wanted.lingering))
    if not state.is_enabled:
        steps.append(EnableService())
    if wanted.start:
        steps += start_steps(places, wanted.model_bytes, embeds=wanted.desired.config.model.embeddings)
    unstarted = state.is_active and not wanted.start
    steps.append(_manifest_step(wanted, installed, places, missing, unstarted=unstarted))
    return steps


def start_steps(places: Places, model_bytes: int, *, embeds: bool) -> list[Recorded]:
    """The steps that start what is installed and see it answer."""
    return [
        KeepState.of(places.state, places.private),
        StartService(timeout_s=start_timeout_s(model_bytes)),
        Prove(embeds=embeds),
    ]


def _config_steps(wanted: Wanted, installed: Installed, places: Places) -> list[Recorded]:
    if installed.config is not None and installed.config == _without_host_name(wanted.desired.config):
        return []  # it says the same; the comments in it stay
    before = Earlier.of(places.config)
    steps: list[Recorded] = []
    if (installed.edited or installed.problems) and before is not None:
        backup = Earlier.of(places.backup)
        steps.append(PutFile(path=str(places.backup), data=before.data, before=backup, mode=before.mode))
    data = as_bytes(wanted.desired.config_text)
    steps.append(PutFile(path=str(places.config), data=data, before=before))
    return steps


def _manifest_step(
    wanted: Wanted, installed: Installed, places: Places, missing: list[Path], *, unstarted: bool
) -> Recorded:
    earlier = installed.manifest
    kept = installed.config_text if not _config_steps(wanted, installed, places) else None
    future = [str(path) for path in _made_by_systemd(places) if not path.exists()]
    manifest = Manifest(
        version=__version__,
        options=wanted.options,
        computer=wanted.computer,
        command=wanted.command,
        config_sha256=earlier.config_sha256
        if kept and earlier
        else digest(kept or wanted.desired.config_text),
        unit_sha256=digest(wanted.desired.unit_text),
        model_path=wanted.desired.config.model.path,
        created=tuple(
            dict.fromkeys(
                [*(earlier.created if earlier else ()), *map(str, (*wanted.made, *missing)), *future]
            )
        ),
        lingering=wanted.lingering or (earlier.lingering if earlier else ""),
        unstarted=unstarted,
    )
    path = places.record / MANIFEST
    return PutRecord(path=str(path), data=manifest_text(manifest).encode(), before=Earlier.of(path))


def _model_bytes(installed: Installed) -> int:
    """The size of the model that is configured now; 0 when its file is not there."""
    try:
        return Path(installed.config.model.path).stat().st_size if installed.config else 0
    except OSError:
        return 0


def _is_file(path: Path) -> bool:
    """Whether a file is at ``path``, or where nobody may look (a dry run without root), may be."""
    try:
        return path.is_file()
    except PermissionError:
        return True


def _missing_folders(places: Places) -> list[Path]:
    """Folders to make, outermost first."""
    wanted = [places.config.parent, places.unit.parent]
    found: dict[Path, None] = {}
    for folder in wanted:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                found[path] = None
    return list(found)


def _made_by_systemd(places: Places) -> list[Path]:
    return [places.private.parent] if places.private else []


def _without_host_name(config: Config) -> Config:
    return structs.replace(config, node="") if config.node == default_node() else config


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
