"""Drafts the next tokens of an answer from what was said before, as far as trying them pays. Pure.

A draft is evaluated in one step with the token it follows, and the tokens are drawn one after the other from
the logits of that step. Those that are drawn as drafted have cost no step of their own; from the first one
that is not, the rest is taken back. Every token is drawn from the logits it would have had without a draft.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKEN_BYTES = array("i").itemsize
LONGEST, SHORTEST = 4, 2  # tokens that must have been said before in the same order, for a draft
# Before a request has shown how often its drafts come true: three in four, which counts like two tokens.
PRIOR_TRIED, PRIOR_ACCEPTED = 2.0, 1.5
KEPT_BY_DRAFT = 0.9  # of what was seen counts on after a draft, so that an answer may change its kind
REST_TOKENS = 48  # without drafts when they have not come true; then half of what was seen is forgotten
WORTHWHILE = 1.05  # times the speed without a draft; the costs are known to a few percent only


class StepCost(Struct, frozen=True):
    """What a step takes: ``fixed_s`` seconds, and ``token_s`` for each of its tokens."""

    fixed_s: float
    token_s: float

    def seconds(self, tokens: int) -> float:
        return self.fixed_s + self.token_s * tokens


NOTHING = StepCost(1.0, 0.0)  # of a step that takes as long whatever is in it: every draft pays


def step_cost(one_s: float, many_s: float, many: int) -> StepCost:
    """From the seconds of a step of one token, and of one of ``many``."""
    token_s = max(0.0, many_s - one_s) / (many - 1)
    return StepCost(max(0.0, one_s - token_s), token_s)


def best_gain(cost: StepCost, drafted: int) -> float:
    """How many times as fast an answer is all of whose drafts of ``drafted`` tokens come true."""
    return (1 + drafted) * cost.seconds(1) / cost.seconds(1 + drafted)


def worth_trying(cost: StepCost, accepted: float, most: int, others: int = 0) -> int:
    """How many drafted tokens make a step the quickest for all; 0: none.

    Each is drawn as drafted with probability ``accepted`` if those before it were; ``others`` tokens are in
    the step anyway, one for each answer.
    """
    answers = 1 + others
    best, best_speed = 0, WORTHWHILE * answers / cost.seconds(answers)
    expected, reached = 0.0, 1.0
    for count in range(1, most + 1):
        reached *= accepted
        expected += reached
        speed = (answers + expected) / cost.seconds(answers + count)
        if speed > best_speed:
            best, best_speed = count, speed
    return best


class Drafter:
    """Of one request: knows its prompt and answer, and how often its drafts came true."""

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost
        self._said = bytearray()
        self._tried = 0.0
        self._accepted = 0.0
        self._rest = 0

    @property
    def accepted(self) -> float:
        """The probability that a drafted token is drawn, from what was seen lately."""
        return (self._accepted + PRIOR_ACCEPTED) / (self._tried + PRIOR_TRIED)

    def draft(self, tokens: Sequence[int], most: int, others: int = 0) -> list[int]:
        """At most ``most`` tokens that may follow ``tokens``, which only ever grow; empty when none pay.

        ``others`` answers get a token in the same step.
        """
        self._said += array("i", tokens[len(self._said) // TOKEN_BYTES :]).tobytes()
        if self._rest:
            self._rest -= 1
            return []
        worth = worth_trying(self._cost, self.accepted, most, others)
        return lookup(self._said, worth) if worth else []

    def settle(self, drafted: int, accepted: int) -> None:
        """Of ``drafted`` tokens the first ``accepted`` were drawn; those behind the next were not tried."""
        self._tried = self._tried * KEPT_BY_DRAFT + min(drafted, accepted + 1)
        self._accepted = self._accepted * KEPT_BY_DRAFT + accepted
        if not worth_trying(self._cost, self.accepted, drafted):
            self._rest = REST_TOKENS
            self._tried /= 2
            self._accepted /= 2


def lookup(said: bytearray, most: int) -> list[int]:
    """Up to ``most`` tokens that followed when the last few of ``said`` were said before, the latest time.

    ``said`` is tokens as :class:`array.array` of ``i`` has them.
    """
    for count in range(LONGEST, SHORTEST - 1, -1):
        size = count * TOKEN_BYTES
        if len(said) <= size:
            continue
        pattern = bytes(said[-size:])
        end = len(said) - TOKEN_BYTES  # so that it is not found where it stands
        while (at := said.rfind(pattern, 0, end)) >= 0:
            if at % TOKEN_BYTES == 0:
                follows = said[at + size : at + size + most * TOKEN_BYTES]
                return list(array("i", bytes(follows)))
            end = at + size - 1  # between two tokens: go on before it
    return []
