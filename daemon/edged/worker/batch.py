"""Plans one compute step: which slots join, and with how many tokens. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class Work(Struct, frozen=True):
    """What a slot still has to evaluate: ``pending`` prompt tokens, or one token when decoding."""

    slot: int
    pending: int
    decoding: bool


class Share(Struct, frozen=True):
    """``tokens`` of this slot's pending ones go into the step; ``last``: then its prompt is complete."""

    slot: int
    tokens: int
    last: bool


def plan_step(work: Sequence[Work], budget: int) -> list[Share]:
    """At most ``budget`` tokens: every decoding slot gets its one, prompts share what is left.

    Decoding goes first so that a long prompt delays the others by one step at
    most; prompts are served in the order of ``work`` (first come, first served)
    so that the first answer starts as early as it can.
    """
    shares = [Share(item.slot, 1, last=True) for item in work if item.decoding][:budget]
    left = budget - len(shares)
    for item in work:
        if item.decoding or left <= 0:
            continue
        tokens = min(item.pending, left)
        left -= tokens
        shares.append(Share(item.slot, tokens, last=tokens == item.pending))
    return shares
