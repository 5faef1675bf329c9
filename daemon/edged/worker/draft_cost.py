"""What drafts cost on this computer, in memory and in time, and whether there are any."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from edged.host.procfs import anon_bytes
from edged.worker.measure import measure_step_cost
from edged.worker.speculate import NOTHING, best_gain

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.ipc.messages import Load
    from edged.worker.backends.base import Backend
    from edged.worker.speculate import StepCost

log = logging.getLogger("edged.worker")

LEAST_GAIN = 1.2  # at the very best; most answers copy little, and looking costs something, too
MIB = 1 << 20


def load_within_budget(order: Load, load: Callable[[Load], Backend]) -> Backend:
    """The model that ``load`` makes of ``order``, without drafts where they take it above its budget.

    No plan includes what recurrent layers keep for drafts that are asked for. Raises what ``load`` raises.
    """
    backend = load(order)
    taken_bytes = anon_bytes(os.getpid()) + order.cache_bytes
    wanted = order.options.speculate == "on" and backend.draft_tokens
    if not wanted or not 0 < order.budget_bytes < taken_bytes:
        return backend
    log.warning(
        "no drafts, though they are on: with them engine and cache take %d MiB, memory.budget_mib is %d",
        taken_bytes // MIB,
        order.budget_bytes // MIB,
    )
    backend.close()
    return load(structs.replace(order, options=structs.replace(order.options, speculate="off")))


def price_of_drafts(
    backend: Backend,
    wanted: Literal["auto", "on", "off"],
    progressed: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> StepCost | None:
    """What decides how many tokens of an answer are drafted; None: none, not even the best draft pays."""
    if not backend.draft_tokens:
        return None
    if wanted == "on":
        return NOTHING
    cost = measure_step_cost(backend, progressed, clock)
    gain = best_gain(cost, backend.draft_tokens)
    times = cost.seconds(1 + backend.draft_tokens) / cost.seconds(1)
    log.info(
        "drafts %s: a step of %d tokens takes %.1f times one of one, copied text could be %.1f times as fast",
        "on" if gain >= LEAST_GAIN else "off", 1 + backend.draft_tokens, times, gain,
    )  # fmt: skip
    return cost if gain >= LEAST_GAIN else None
