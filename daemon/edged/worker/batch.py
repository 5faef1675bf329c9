"""Plans one compute step: which slots join, and with how many tokens. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


OLDEST_TURN = 4  # of the steps that read prompts the oldest prompt comes first in every fourth


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


def plan_step(work: Sequence[Work], budget: int, *, oldest_first: bool = False) -> list[Share]:
    """At most ``budget`` tokens: every decoding slot gets its one, prompts share what is left.

    ``work`` is in order of arrival. Decoding goes first, so that a long prompt
    delays the others by one step at most. Of the prompts the most urgent goes first,
    of those the one with the shortest rest, so that a short question does not wait for
    a long document; with ``oldest_first`` the one that has waited longest, so that others
    cannot starve it. The next ones take part as long as they end in this step: a piece of
    another would be evaluated in a pass of its own, and its prompt takes no step less for it.
    """
    shares = [Share(item.slot, 1, last=True) for item in work if item.decoding][:budget]
    left = budget - len(shares)
    prompts = [item for item in work if not item.decoding]
    if not prompts or left <= 0:
        return shares
    ahead = prompts[0] if oldest_first else None
    granted: dict[int, int] = {}
    for item in sorted(prompts, key=lambda item: (item is not ahead, -item.priority, item.pending)):
        if granted and item.pending > left:
            break
        granted[item.slot] = min(item.pending, left)
        left -= granted[item.slot]
    shares += [
        Share(item.slot, granted[item.slot], last=granted[item.slot] == item.pending and not item.stops)
        for item in prompts
        if item.slot in granted
    ]
    return shares
