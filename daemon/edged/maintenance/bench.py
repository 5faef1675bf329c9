"""Measures the engine while nobody wants it, beside what the plan promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.ipc.messages import Measure
from edged.maintenance.records import JobFailed

if TYPE_CHECKING:
    from edged.engine.supervisor import EngineSupervisor
    from edged.maintenance.records import Record
    from edged.maintenance.runner import Running

PROMPT_TOKENS = 128  # two steps of the usual size; on the slowest board about twenty seconds
DECODE_STEPS = 16
PLANNED_PROMPT_TOKENS = 500  # the plan's figure for the first token is for as many


class Bench:
    """One sequence, then as many as there are slots. Requests that come meanwhile wait for some seconds."""

    resumable = False

    def __init__(self, engine: EngineSupervisor) -> None:
        self._engine = engine

    async def run(self, job: Running) -> dict[str, object]:
        """Raises Busy unless the engine is idle, EngineLost, JobFailed for a model that makes vectors."""
        config = self._engine.config
        if config.model.embeddings:
            raise JobFailed("unsupported", "the model here makes vectors; only answers are measured")
        depth = min(PROMPT_TOKENS, config.model.context - DECODE_STEPS)
        found = []
        batches = sorted({1, config.model.slots})
        for number, batch in enumerate(batches):
            order = Measure(batch=batch, depth=depth, prefill_tokens=depth, decode_steps=DECODE_STEPS)
            measured = await self._engine.measure(order)
            found.append((batch, measured))
            job.progress((number + 1) / len(batches))
        alone = found[0][1]
        plan = config.plan
        return {
            "model": f"{config.model.name}:{config.model.quant}".rstrip(":"),
            "prefill_tps": round(alone.prefill_tps, 2),
            "decode_tps": round(alone.decode_tps, 2),
            "first_token_500_s": round(PLANNED_PROMPT_TOKENS / alone.prefill_tps + alone.step_ms / 1000, 2),
            "batches": [
                {"sequences": batch, "decode_tps": round(measured.decode_tps, 2)} for batch, measured in found
            ],
            "predicted": {
                "decode_tps": plan.decode_tps,
                "first_token_500_s": plan.first_token_500_s,
                "speed": plan.speed,
            }
            if plan.decode_tps
            else None,
        }

    def after_restart(self, record: Record) -> None:  # noqa: ARG002 - a measurement is asked for again
        return None
