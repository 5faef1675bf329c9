"""Decides from samples of memory when to shed requests and when to replace the worker. Pure."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

# PSI "full": share of the last ten seconds in which nothing could run for want of memory (kernel psi.rst).
SHED_PRESSURE_PERCENT = 10.0
RECYCLE_PRESSURE_PERCENT = 40.0
OVER_BUDGET_SAMPLES = 3  # a spike of two seconds is a large prompt, not a leak
PRESSURE_SAMPLES = 5
CALM_SAMPLES = 5  # before taking requests again, so that the state does not flap
RECYCLE_REST_SAMPLES = 30  # a fresh worker gets this long to settle


class Sample(Struct, frozen=True, kw_only=True):
    """One second of life, in bytes and percent; ``pressure`` is None where the kernel has no PSI."""

    worker_bytes: int  # RssAnon + swap; 0 without a worker
    budget_bytes: int  # 0: none
    available_bytes: int
    min_available_bytes: int
    pressure: float | None = None


class Verdict(StrEnum):
    OK = "ok"
    SHED = "shed"
    RECYCLE = "recycle"


class Decision(Struct, frozen=True):
    """``why`` is for people; empty when all is well."""

    verdict: Verdict
    why: str = ""


class GuardPolicy:
    """Feed one sample a second, obey the decision."""

    def __init__(self) -> None:
        self._over = 0
        self._pressed = 0
        self._calm = CALM_SAMPLES
        self._rest = 0
        self._why = ""

    def step(self, sample: Sample) -> Decision:
        """The decision for this second."""
        self._rest = max(0, self._rest - 1)
        problem = _problem(sample)
        self._over = self._over + 1 if 0 < sample.budget_bytes < sample.worker_bytes else 0
        hard = (sample.pressure or 0.0) > RECYCLE_PRESSURE_PERCENT
        self._pressed = self._pressed + 1 if hard else 0
        if problem:
            self._calm = 0
            self._why = problem
        else:
            self._calm += 1
        worn_out = self._over >= OVER_BUDGET_SAMPLES or self._pressed >= PRESSURE_SAMPLES
        if worn_out and sample.worker_bytes and not self._rest:
            self._over = self._pressed = 0
            self._rest = RECYCLE_REST_SAMPLES
            return Decision(Verdict.RECYCLE, self._why)
        return Decision(Verdict.OK) if self._calm >= CALM_SAMPLES else Decision(Verdict.SHED, self._why)


def _problem(sample: Sample) -> str:
    mib = 1 << 20
    if 0 < sample.budget_bytes < sample.worker_bytes:
        return (
            f"the worker uses {sample.worker_bytes // mib} MiB of anonymous memory, "
            f"its budget is {sample.budget_bytes // mib} MiB"
        )
    if sample.pressure is not None and sample.pressure > SHED_PRESSURE_PERCENT:
        return f"memory pressure: for {sample.pressure:.0f}% of the last 10 s nothing could run"
    if sample.available_bytes < sample.min_available_bytes:
        return f"only {sample.available_bytes // mib} MiB of the host's memory are available"
    return ""
