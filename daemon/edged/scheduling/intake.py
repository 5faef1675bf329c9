"""How much work is let in while the box is hot, weakly powered or short of memory. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Cause: TypeAlias = Literal["", "thermal", "memory_guard"]  # the code of the error that tells it

# Of slots and queue, from "all is well" to "let it cool down".
SHARES = (1.0, 0.5, 0.25, 0.0)
REST_S = 60.0  # between two changes: heat sinks and clients both take that long to settle
SUSTAINED = 2  # samples in a row, before less is let in: a spike is not a state
CALM_S = 30.0  # well below what led to a step, before it is taken back
EASED_C = 5.0  # "well below", of a temperature
EASED_FACTOR = 0.5  # and of a share of time
# Percent of the last ten seconds in which some or all tasks waited for memory. Above 10 % of "full" the guard
# sheds everything (guard/policy.py).
SOME_PERCENT = 20.0
FULL_PERCENT = 5.0
CRITICAL_MARGIN_C = 5.0  # below the temperature at which the kernel switches the computer off


class Strain(Struct, frozen=True, kw_only=True):
    """One look at the host; None where it has no sensor.

    ``hot_c`` is where it begins to slow down by itself, ``critical_c`` where it switches itself off.
    """

    celsius: float | None = None
    hot_c: float = 90.0
    critical_c: float = 105.0
    throttled: tuple[str, ...] = ()
    memory_some_percent: float | None = None
    memory_full_percent: float | None = None


class Intake(Struct, frozen=True, kw_only=True):
    """``share`` of slots and queue that is let in, and why not all; ``why`` is for people."""

    share: float = 1.0
    cause: Cause = ""
    why: str = ""

    def slots(self, slots: int) -> int:
        """Of so many slots, those that may be in use."""
        return max(1, int(slots * self.share)) if self.share > 0 else 0


OPEN = Intake()


class IntakePolicy:
    """Feed a sample every few seconds, obey the intake. It changes at most once in REST_S."""

    def __init__(self) -> None:
        self.intake = OPEN
        self._step = 0
        self._changed_at = float("-inf")
        self._worse = 0  # samples in a row
        self._calm_since: float | None = None

    def sample(self, now: float, strain: Strain) -> Intake:
        """The intake from now on."""
        wanted, cause, why = _judged(strain)
        eased, _, _ = _judged(strain, eased=True)
        self._worse = self._worse + 1 if wanted > self._step else 0
        if eased >= self._step:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if wanted == self._step and cause != self.intake.cause and wanted:
            self.intake = Intake(share=self.intake.share, cause=cause, why=why)  # as bad, for another reason
        rested = now - self._changed_at >= REST_S
        if rested and self._worse >= SUSTAINED:
            self._change(now, wanted, cause, why)
        elif rested and self._calm_since is not None and now - self._calm_since >= CALM_S:
            # One step at a time: the heat that more work makes shows a minute later.
            self._change(now, self._step - 1, self.intake.cause, self.intake.why)
        return self.intake

    def _change(self, now: float, step: int, cause: Cause, why: str) -> None:
        self._step = step
        self._changed_at = now
        self._worse = 0
        self._calm_since = None
        self.intake = Intake(share=SHARES[step], cause=cause, why=why) if step else OPEN


def _judged(strain: Strain, *, eased: bool = False) -> tuple[int, Cause, str]:
    """How many steps down ``strain`` asks for, and why; ``eased`` with limits that are harder to keep."""
    found = [(_heat(strain, EASED_C if eased else 0.0), "thermal", _heat_text(strain))]
    found.append((_memory(strain, EASED_FACTOR if eased else 1.0), "memory_guard", _memory_text(strain)))
    step, cause, why = max(found, key=lambda one: one[0])
    return step, cause, why  # type: ignore[return-value]


def _heat(strain: Strain, eased_c: float) -> int:
    step = 1 if strain.throttled else 0
    if strain.celsius is None:
        return step
    limits = (
        strain.hot_c,
        (strain.hot_c + strain.critical_c - CRITICAL_MARGIN_C) / 2,
        strain.critical_c - CRITICAL_MARGIN_C,
    )
    return max(step, sum(strain.celsius >= limit - eased_c for limit in limits))


def _heat_text(strain: Strain) -> str:
    if strain.throttled:
        return f"the board slows itself down: {', '.join(strain.throttled)}"
    if strain.celsius is None:
        return ""
    return f"the box is at {strain.celsius:.0f} °C; it slows itself down from {strain.hot_c:.0f} °C on"


def _memory(strain: Strain, factor: float) -> int:
    if (strain.memory_full_percent or 0.0) >= FULL_PERCENT * factor:
        return 2
    return 1 if (strain.memory_some_percent or 0.0) >= SOME_PERCENT * factor else 0


def _memory_text(strain: Strain) -> str:
    waited = strain.memory_some_percent or 0.0
    return f"memory pressure: for {waited:.0f}% of the last 10 s something waited for memory"
