"""Fetches a model into the store of the service, by the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edged.maintenance.errand import errand
from edged.maintenance.places import pulled

if TYPE_CHECKING:
    from pathlib import Path

    from edged.maintenance.records import Record
    from edged.maintenance.runner import Running

LIMIT_S = 86400.0  # 5 GB at 60 kB/s


class Pull:
    """The file is checked against its hash before it becomes loadable; a broken download goes on later."""

    resumable = True

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    async def run(self, job: Running) -> dict[str, object]:
        """Raises JobFailed with the code of `edgectl models pull`, such as no_space or integrity."""
        order = job.order
        words = [order.model or order.url]
        for option, value in (("--sha256", order.sha256), ("--name", order.name), ("--quant", order.quant)):
            words += [option, value] if value else []

        def heard(line: dict[str, Any]) -> None:
            if line.get("event") == "progress":
                done, total = int(line["done_bytes"]), line.get("total_bytes")
                share = done / total if total else None
                job.progress(share, done_bytes=done, total_bytes=total)

        env = {"EDGED_STATE": str(pulled(self._state_dir))}
        done = await errand("models", "pull", "--json", *words, limit_s=LIMIT_S, env=env, heard=heard)
        return {"model": done["spec"], **{name: done[name] for name in ("sha256", "size_bytes", "fresh")}}

    def after_restart(self, record: Record) -> None:  # noqa: ARG002 - it is done again
        return None
