"""What the next worker is told to load, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edged.engine.cache import with_cache
from edged.engine.modelfile import check_model
from edged.engine.selftest import engine_version
from edged.ipc.messages import EngineOptions, Load

if TYPE_CHECKING:
    from edged.api.config import Config
    from edged.engine.tuner import Tuner


async def load_order(config: Config, tuner: Tuner, state_dir: Path) -> Load:
    """The model of ``config`` with the options that survive on this host.

    Raises ModelUnusable when the file is not the one that is configured, WorkerLost when no options work.
    """
    model = config.model
    await check_model(Path(model.path), model.sha256, state_dir / "model.json")
    options = EngineOptions(
        context=model.context,
        slots=model.slots,
        ubatch=model.ubatch,
        threads=tuner.threads,
        speculate=model.speculate,
        kv_type=model.kv_type,
        mmap=model.mmap,
        embeddings=model.embeddings,
        repack=model.repack != "off",
    )
    budget_bytes = config.memory.budget_mib << 20
    order = Load(path=model.path, backend=model.backend, options=options, budget_bytes=budget_bytes)
    engine = engine_version(model.backend)
    order = await tuner.settle(order, engine)
    return with_cache(order, config, folder=state_dir / "prefixes", engine=engine)
