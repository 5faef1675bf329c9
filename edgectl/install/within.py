"""How a stored model would be served inside the limits of a configuration that is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from edgectl.errors import NothingFits
from edgectl.install.desired import FAKE_SUFFIX, Chosen, with_plan
from edgectl.install.model_file import entry_of
from edgectl.planning.catalog import Catalog, load_catalog
from edgectl.planning.plan import Wishes, best_candidate, plan
from edgectl.planning.reason import why_not

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.device import Device
    from edgectl.models.refs import Ref
    from edgectl.planning.candidate import Candidate
    from edgectl.planning.catalog import ModelEntry
    from edgectl.planning.speed import DeviceSpeed
    from edgectl.probe import DeviceProfile
    from edged.api.config import Config

MIB = 1 << 20
ROUNDS = 6  # each takes away what was too much; settings come in few sizes


def settings_within(
    config: Config,
    ref: Ref,
    path: Path,
    *,
    device: Device,
    profile: DeviceProfile | None,
    speed: DeviceSpeed,
    held_bytes: int,
) -> Config:
    """``config`` with the model ``ref``, whose file is ``path``; the limits on memory are as before.

    ``held_bytes`` is what the engine that runs now will have given back. Raises NothingFits when the model
    needs more than the computer has or ``[memory]`` of the configuration allows, and what
    :func:`entry_of` raises.
    """
    catalog = Catalog((_entry(ref, path),))
    limit_bytes: int | None = None
    for _ in range(ROUNDS):
        result = plan(
            _with_memory(device, held_bytes, limit_bytes), profile, catalog, Wishes(model=ref.spec),
            stored_sha256=[ref.sha256], speed=speed,
        )  # fmt: skip
        if result.choice is None:
            raise _too_large(ref, best_candidate(result), config if limit_bytes is not None else None)
        found = Chosen(plan=result.choice, model_path=path, sha256=ref.sha256, board=config.board)
        wanted = with_plan(config, found)
        excess = max(
            _excess(wanted.memory.budget_mib, config.memory.budget_mib),
            _excess(wanted.memory.cgroup_max_mib, config.memory.cgroup_max_mib),
        )
        if not excess:
            return _kept(wanted, config, ref)
        limit_bytes = result.choice.unit_memory_max_bytes - excess * MIB
    raise _too_large(ref, best_candidate(result), config)


def _kept(wanted: Config, config: Config, ref: Ref) -> Config:
    """``wanted`` with the limits of ``config`` and the names of the store."""
    model = structs.replace(wanted.model, name=ref.model, quant=ref.quant)
    if ref.filename.endswith(FAKE_SUFFIX):
        model = structs.replace(model, backend="fake")
    memory = structs.replace(config.memory, cache_mib=wanted.memory.cache_mib)
    return structs.replace(wanted, model=model, memory=memory)


def _too_large(ref: Ref, smallest: Candidate, config: Config | None) -> NothingFits:
    """``config`` is given where its limits decide, and not the memory of the computer."""
    why = why_not(smallest)
    if config is not None:
        engine_mib = -(-smallest.settings.worker_bytes // MIB)
        why = f"its engine takes {engine_mib} MiB at least, memory.budget_mib is {config.memory.budget_mib}"
        if config.memory.cgroup_max_mib:
            file_mib = -(-smallest.download_bytes // MIB) if smallest.settings.mmap else 0
            why += (
                f"; with the file {engine_mib + file_mib}, cgroup_max_mib is {config.memory.cgroup_max_mib}"
            )
    return NothingFits(
        f"{ref.spec} does not fit the memory limits of this box: {why}",
        hint=f"on the box: `sudo edgectl install --model {ref.spec}` plans the limits anew",
    )


def _entry(ref: Ref, path: Path) -> ModelEntry:
    """The catalogue's, where it knows the file, else what the header says, under the name of the store."""
    for entry in load_catalog().models:
        for file in entry.files:
            if file.sha256 == ref.sha256:
                return structs.replace(entry, id=ref.model, files=(structs.replace(file, quant=ref.quant),))
    entry = entry_of(path, ref.filename)
    file = structs.replace(entry.files[0], quant=ref.quant, sha256=ref.sha256)
    return structs.replace(entry, id=ref.model, files=(file,))


def _with_memory(device: Device, held_bytes: int, limit_bytes: int | None) -> Device:
    """``device`` once the engine that runs now has ended, with a limit on the whole service."""
    memory = device.memory
    group = memory.cgroup_available_bytes
    limits = [] if group is None else [group + held_bytes]
    limits += [] if limit_bytes is None else [max(0, limit_bytes)]
    memory = structs.replace(
        memory,
        available_bytes=memory.available_bytes + held_bytes,
        cgroup_available_bytes=min(limits, default=None),
    )
    return structs.replace(device, memory=memory)


def _excess(wanted_mib: int, allowed_mib: int) -> int:
    """MiB too many; a limit of 0 is none."""
    return max(0, wanted_mib - allowed_mib) if allowed_mib else 0
