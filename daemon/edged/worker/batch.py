"""Plans one compute step: which slots join, and with how many tokens. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


OLDEST_SHARE = 4  # the oldest prompt gets at least one part in four


class Work(Struct, frozen=True):
    """What a slot still has to evaluate: ``pending`` prompt tokens, or one token when decoding.

    ``stops``: its prompt goes on behind these, but not in the same step. ``priority`` is the request's.
    """

    slot: int
    pending: int
    decoding: bool
    stops: bool = False
    priority: int = 0


class Share(Struct, frozen=True):
    """``tokens`` of this slot's pending ones go into the step; ``last``: then its prompt is complete."""

    slot: int
    tokens: int
    last: bool


def plan_step(work: Sequence[Work], budget: int) -> list[Share]:
    """At most ``budget`` tokens: every decoding slot gets its one, prompts share what is left.

    ``work`` is in order of arrival. Decoding goes first, so that a long prompt
    delays the others by one step at most. Of the prompts the most urgent goes first,
    of those the one with the shortest rest, so that a short question does not wait for
    a long document; the oldest is sure of a quarter, so that others cannot starve it.
    """
    shares = [Share(item.slot, 1, last=True) for item in work if item.decoding][:budget]
    left = budget - len(shares)
    prompts = [item for item in work if not item.decoding]
    if not prompts or left <= 0:
        return shares
    oldest = prompts[0]
    granted = {oldest.slot: min(oldest.pending, max(1, left // OLDEST_SHARE))}
    left -= granted[oldest.slot]
    for item in sorted(prompts, key=lambda item: (-item.priority, item.pending - granted.get(item.slot, 0))):
        before = granted.get(item.slot, 0)
        more = min(item.pending - before, left)
        left -= more
        if before + more:
            granted[item.slot] = before + more
    shares += [
        Share(item.slot, granted[item.slot], last=granted[item.slot] == item.pending and not item.stops)
        for item in prompts
        if item.slot in granted
    ]
    return shares
