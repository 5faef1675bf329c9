"""What a worker is told about its cache: how large, what to read ahead, what to keep on disk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import structs

from edged.engine.selftest import file_version
from edged.ipc.messages import Keep

if TYPE_CHECKING:
    from pathlib import Path

    from edged.api.config import Config
    from edged.ipc.messages import Load


def with_cache(order: Load, config: Config, *, folder: Path, engine: str) -> Load:
    """``order`` with the cache of ``config``; ``folder`` is for what outlives the worker."""
    memory = config.memory
    if not memory.cache_mib:
        return order
    keep = None
    if memory.keep_prefixes:
        keep = Keep(folder=str(folder), key=_key(order, config, engine), most=memory.keep_prefixes)
    systems = (config.model.system, *(template.system for template in config.templates.values()))
    return structs.replace(
        order,
        cache_bytes=memory.cache_mib << 20,
        systems=tuple(system for system in systems if system),
        thinking=config.model.thinking,
        keep=keep,
    )


def _key(order: Load, config: Config, engine: str) -> str:
    """Changes when a state of before would not be a state of now: with engine, model file or options.

    How many threads compute it and whether weights are repacked moves last bits only.
    """
    options = structs.replace(order.options, threads=0, batch_threads=0, repack=True)
    model = config.model.sha256 or file_version(order.path)
    parts = (engine, order.backend, order.path, model, repr(options))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
