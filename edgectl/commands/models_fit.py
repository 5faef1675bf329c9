"""`edgectl models fit`: how a stored model would be served inside the limits of a configuration."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgectl.commands.local_models import local_store, stored
from edgectl.errors import NotFound
from edgectl.models.store import Store
from edgectl.output.transfer import emit_event, json_outcome

if TYPE_CHECKING:
    from edgectl.models.refs import Ref


@click.command("fit", hidden=True)
@click.argument("spec")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Configuration in force.")
@click.option("--store", "folders", type=click.Path(path_type=Path), multiple=True, help="Model store.")
@click.option("--held", "held_bytes", type=click.IntRange(min=0), default=0, help="Bytes of the engine.")
@click.option("--json", "as_json", is_flag=True, default=True, hidden=True)
@json_outcome
def fit_command(
    spec: str,
    config_path: Path | None,
    folders: tuple[Path, ...],
    held_bytes: int,
    *,
    as_json: bool,  # noqa: ARG001 - there is no other form
) -> None:
    """Print the settings that SPEC would be served with, as JSON; the daemon asks before it switches.

    Nothing is changed. Exit status 3: it does not fit the memory that the configuration allows.
    """
    from edgectl.client.target import local_config_path
    from edgectl.install.within import settings_within
    from edgectl.planning.calibration import calibration_here
    from edgectl.planning.speed import device_speed
    from edgectl.probe import find_profile, load_profiles, probe_device
    from edged.host.config import load

    config = load(config_path or local_config_path())
    ref, path = _find(spec, [Store(folder) for folder in folders] or [local_store()])
    device = probe_device()
    profile = find_profile(device.profile, load_profiles()) if device.profile else None
    speed = device_speed(device, profile, calibration_here(device)[0])
    wanted = settings_within(
        config, ref, path, device=device, profile=profile, speed=speed, held_bytes=held_bytes
    )
    settings = {"model": wanted.model, "cache_mib": wanted.memory.cache_mib, "plan": wanted.plan}
    emit_event("done", settings=settings)


def _find(spec: str, stores: list[Store]) -> tuple[Ref, Path]:
    """The first store's that has it, file included. Raises NotFound, or Usage."""
    for store in stores:
        with contextlib.suppress(NotFound):
            ref = stored(store, spec)
            if store.has(ref):
                return ref, store.path_of(ref)
    known = ", ".join(ref.spec for store in stores for ref in store.list() if store.has(ref))
    raise NotFound(f"there is no stored model {spec!r}", hint=f"stored: {known or 'none'}")
