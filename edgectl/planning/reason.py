"""The sentence that explains a choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.planning.candidate import Candidate, distance
from edgectl.planning.wishes import DEFAULT_MIN_TPS

if TYPE_CHECKING:
    from edgectl.planning.wishes import Wishes

__all__ = ["reason", "why_not"]


def reason(best: Candidate, candidates: tuple[Candidate, ...], wishes: Wishes) -> str:
    """One or two sentences: why this one, and what kept the next better one out."""
    fitting = [one for one in candidates if one.fits and not one.demo]
    if best.demo:
        return f"{best.name} was asked for by name; it is for demonstrations, not for real work."
    if len(fitting) == 1:
        first = "The only file that meets the wishes."
    elif wishes.prefer == "quality":
        first = f"The best answers of the {len(fitting)} files that meet the wishes."
    else:
        weight = "speed before quality" if wishes.prefer == "speed" else "quality against speed"
        first = f"The best of the {len(fitting)} files that meet the wishes, weighing {weight}."
    if wishes.model and best.speed.decode_tps < DEFAULT_MIN_TPS:
        first += f" It is slow here: about {best.speed.decode_tps:.1f} tokens/s."
    if best.settings.rung:
        requests = "one request" if best.settings.slots == 1 else f"{best.settings.slots} requests"
        first += (
            f" To fit, it serves {requests} at once, with {best.settings.context_tokens:,} tokens of context."
        )
    better = [
        one for one in candidates if one.quality > best.quality and one.pullable and one.model != best.model
    ]
    if not better:
        return first
    model = min(better, key=lambda one: one.quality).model
    return f"{first} {_against(min((one for one in better if one.model == model), key=distance), best)}"


def why_not(candidate: Candidate) -> str:
    """Everything that keeps a candidate out."""
    return "; ".join(miss.message for miss in candidate.misses)


def _against(better: Candidate, best: Candidate) -> str:
    label = f"{better.name} {better.quant}"
    if better.misses:
        return f"The next better one, {label}, is out: {why_not(better)}."
    return (
        f"{label} would give slightly better answers ({better.quality:.0f} against {best.quality:.0f}) "
        f"at {better.speed.decode_tps:.1f} instead of {best.speed.decode_tps:.1f} tokens/s."
    )
