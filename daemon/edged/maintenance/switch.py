"""Serves another model of the store: refused when it does not fit, taken back when it does not load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edged.api.config import Config, Model, Plan
from edged.api.errors import ModelUnusable
from edged.host.config import broken_rules
from edged.host.switched import Switched, applied, keep_switched, read_switched
from edged.maintenance.errand import errand
from edged.maintenance.places import stores
from edged.maintenance.records import CONFIGURED, JobFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edged.engine.supervisor import EngineSupervisor
    from edged.maintenance.records import Record
    from edged.maintenance.runner import Running

FIT_S = 120.0  # reading a header and weighing a plan takes seconds on the slowest board


class Fit(Struct, frozen=True, kw_only=True):
    """What `edgectl models fit` says a model needs to be served by."""

    model: Model
    cache_mib: int
    plan: Plan


class Switch:
    """``configured`` is what edged.toml says; ``held_bytes`` what the worker holds now and will give back."""

    resumable = False

    def __init__(
        self,
        engine: EngineSupervisor,
        *,
        configured: Config,
        config_path: Path,
        state_dir: Path,
        held_bytes: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._configured = configured
        self._config_path = config_path
        self._state_dir = state_dir
        self._held_bytes = held_bytes

    async def run(self, job: Running) -> dict[str, object]:
        """Raises JobFailed: nothing_fits, not_found, model …, and then the model before is served."""
        before = _spec(self._engine.config.model)
        switched = None if job.order.model == CONFIGURED else await self._fit(job)
        config = self._configured if switched is None else applied(self._configured, switched)
        if config.model == self._engine.config.model:
            self._keep(switched)
            return {"model": before, "before": before}
        change = self._engine.wishes.change(config)
        try:
            await change.begun.wait()
        except asyncio.CancelledError:
            self._engine.wishes.withdraw(change)
            raise
        job.final = True
        try:
            await asyncio.shield(change.settled)
        except ModelUnusable as error:
            message = f"{_spec(config.model)} did not become ready, {before} is served again: {error.message}"
            raise JobFailed("model", message, hint="`edgectl models verify` checks the file") from None
        self._keep(switched)
        return {"model": _spec(config.model), "before": before}

    def after_restart(self, record: Record) -> dict[str, object] | None:
        """The new model was ready and kept before the daemon ended, or the switch came to nothing."""
        kept = read_switched(self._state_dir)
        return {"model": _spec(kept.model)} if kept is not None and kept.job == record.id else None

    async def _fit(self, job: Running) -> Switched:
        """What the model is served by inside the limits of the configuration; nothing is changed yet."""
        folders = [word for folder in stores(self._state_dir) for word in ("--store", str(folder))]
        told = await errand(
            "models", "fit", job.order.model, "--config", str(self._config_path), *folders,
            "--held", str(self._held_bytes()),
            limit_s=FIT_S,
        )  # fmt: skip
        try:
            fit = msgspec.convert(told["settings"], Fit)
        except (KeyError, msgspec.ValidationError) as error:
            raise JobFailed("internal", f"the settings of the model cannot be read: {error}") from None
        switched = Switched(
            job=job.key[1],
            instead_of=self._configured.model,
            model=fit.model,
            cache_mib=fit.cache_mib,
            plan=fit.plan,
        )
        for problem in broken_rules(applied(self._configured, switched)):
            raise JobFailed("config", problem)
        return switched

    def _keep(self, switched: Switched | None) -> None:
        try:
            keep_switched(self._state_dir, switched)
        except OSError as error:
            message = f"the model is served, but the choice cannot be kept: {error.strerror}"
            raise JobFailed("storage", message, hint="a restart goes back to the model before") from None


def _spec(model: Model) -> str:
    return f"{model.name}:{model.quant}" if model.quant else model.name
