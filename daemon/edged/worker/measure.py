"""Times prefill and decode on a loaded backend, alone in the worker, with tokens that mean nothing."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from edged.ipc.messages import Measured
from edged.worker.backends.base import Run
from edged.worker.speculate import step_cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.ipc.messages import Measure
    from edged.worker.backends.base import Backend
    from edged.worker.speculate import StepCost

SHORTEST_S = 1e-9  # the fake engine needs no time at all
COST_ROUNDS = 8
COST_S = 1.0  # of loading; a model that is slower gets one round, of a few seconds at most


def measure_step_cost(
    backend: Backend, progressed: Callable[[], None], clock: Callable[[], float] = time.monotonic
) -> StepCost:
    """What a step of one token takes, and one with as many on trial as there may be, in sequence 0.

    Rounds are repeated for a moment, and the quickest of each count: neighbours only ever make them slower.
    """
    token = (backend.tokenize("a") or [0])[-1]
    many = 1 + backend.draft_tokens
    one_s: list[float] = []
    many_s: list[float] = []
    position, begun = 0, clock()
    while not many_s or (
        len(many_s) < COST_ROUNDS and clock() - begun < COST_S and position + 1 + many <= backend.context
    ):
        for count, seconds in ((1, one_s), (many, many_s)):
            before = clock()
            backend.step([Run(0, [token] * count, position, output=True, every=True)])
            progressed()
            seconds.append(clock() - before)
            position += count
    backend.forget(0)
    return step_cost(min(one_s), min(many_s), many)


def run_measure(backend: Backend, order: Measure, *, ubatch: int, progressed: Callable[[], None]) -> Measured:
    """Fill ``order.batch`` sequences to ``order.depth`` tokens, then decode ``order.decode_steps`` steps.

    The first is evaluated and the others are copies of it. Prefill is timed over the last
    ``order.prefill_tokens`` of the depth, in steps of ``ubatch`` tokens; decode by the median step.
    ``order.threads`` stay in use. Raises StepError when the sequences do not fit, StateError when there is
    no memory for a copy.
    """
    if order.threads:
        backend.use_threads(order.threads)
    token = (backend.tokenize("a") or [0])[-1]
    sequences = range(order.batch)
    timed_s = 0.0
    timed_tokens = 0
    for start in range(0, order.depth, ubatch):
        count = min(ubatch, order.depth - start)
        before = time.monotonic()
        backend.step([Run(0, [token] * count, start, output=False)])
        progressed()
        if start + count > order.depth - order.prefill_tokens:
            timed_s += time.monotonic() - before
            timed_tokens += count
    if order.depth and order.batch > 1:
        state = backend.save(0)
        for seq in sequences[1:]:
            backend.restore(seq, state, order.depth)
            progressed()
        state.close()
    steps_s = []
    for offset in range(order.decode_steps):
        before = time.monotonic()
        backend.step([Run(seq, [token], order.depth + offset, output=True) for seq in sequences])
        progressed()
        steps_s.append(time.monotonic() - before)
    for seq in sequences:
        backend.forget(seq)
    step_s = median(steps_s) if steps_s else 0.0
    return Measured(
        prefill_tps=timed_tokens / max(timed_s, SHORTEST_S) if timed_tokens else 0.0,
        decode_tps=order.batch / max(step_s, SHORTEST_S) if steps_s else 0.0,
        step_ms=step_s * 1000,
    )
