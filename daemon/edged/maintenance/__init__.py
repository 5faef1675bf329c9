"""Jobs that change or measure the box: fetch a model, serve another, update, bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.host.paths import JOBS
from edged.maintenance.bench import Bench
from edged.maintenance.journal import Journal
from edged.maintenance.pull import Pull
from edged.maintenance.runner import Jobs
from edged.maintenance.switch import Switch
from edged.maintenance.update import Update

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edged.api.config import Config
    from edged.engine.supervisor import EngineSupervisor
    from edged.maintenance.records import JobType, Record
    from edged.maintenance.runner import Task


def make_jobs(
    engine: EngineSupervisor,
    configured: Config,
    *,
    config_path: Path,
    state_dir: Path,
    held_bytes: Callable[[], int],
) -> Jobs:
    """The jobs that ``configured`` allows, with what a run before has left of them."""
    switch = Switch(
        engine, configured=configured, config_path=config_path, state_dir=state_dir, held_bytes=held_bytes
    )
    tasks: dict[JobType, Task] = {
        "pull": Pull(state_dir),
        "switch": switch,
        "update": Update(),
        "bench": Bench(engine),
    }
    allowed = {name: task for name, task in tasks.items() if name in configured.mqtt.job_types}
    return Jobs(Journal(state_dir / JOBS), allowed)


def left_jobs(state_dir: Path) -> list[Record]:
    """The jobs of a run before, all of them over now that none is taken any more."""
    return list(Jobs(Journal(state_dir / JOBS), {}).records.values())
