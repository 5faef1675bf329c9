"""Draws the next tokens of answers, several in a step where drafts of them pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.worker.backends.base import StepError
from edged.worker.speculate import Drafter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.worker.backends.base import Backend
    from edged.worker.slot import Slot
    from edged.worker.speculate import StepCost
    from edged.worker.telling import Telling


class Drawing:
    """``telling`` hears what tokens mean. Without ``cost`` none is drafted; a step has ``budget`` tokens."""

    def __init__(
        self,
        backend: Backend,
        *,
        budget: int,
        cost: StepCost | None,
        telling: Telling,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._budget = budget
        self._cost = cost
        self._telling = telling
        self._clock = clock

    def drafts(self, slots: Sequence[Slot]) -> dict[int, list[int]]:
        """By key what may come next in answers, when there is nothing else in the step."""
        if self._cost is None or not all(slot.decoding for slot in slots):
            return {}
        left = min(self._backend.draft_tokens, self._budget - len(slots))
        drafts = {}
        for slot in slots:
            if slot.drafter is None:
                slot.drafter = Drafter(self._cost)
            room = self._backend.context - len(slot.tokens)
            draft = slot.drafter.draft(slot.tokens, min(left, room), others=len(slots) - 1)
            if draft:
                drafts[slot.key] = draft
                left -= len(draft)
        return drafts

    def advance(self, slot: Slot, rows: Sequence[int], draft: Sequence[int] = ()) -> None:
        """Draw the next token of a slot from the logits at the first of ``rows``, and say what it means.

        The others are behind each token of ``draft``; they are right as long as all is drawn as drafted.
        Raises Refused when no token can be drawn that has the form the answer must have.
        """
        accepted = 0
        try:
            for row, guess in zip(rows, [*draft, None], strict=True):
                token = self._backend.sample(slot.sampler, row, slot.output.allows)
                self._say(slot, token, row)
                if token != guess or slot.output.ended is not None or slot.pending > 1:
                    break
                slot.position += 1
                accepted += 1
        finally:
            if draft:
                self._settle(slot, len(draft), accepted)
        self._telling.keep_pace(slot)

    def _say(self, slot: Slot, token: int, row: int) -> None:
        slot.tokens.append(token)
        if slot.generated == 1:
            slot.first_token_at = self._clock()
        self._telling.say(slot, slot.output.push(token, row))
        if slot.output.ended is None and (closing := slot.output.closing()):
            slot.tokens += closing
            self._telling.say(slot, slot.output.feed(closing), tokens=len(closing))

    def _settle(self, slot: Slot, drafted: int, accepted: int) -> None:
        """Take back what was not drawn as drafted."""
        if slot.drafter is not None:
            slot.drafter.settle(drafted, accepted)
        if accepted < drafted and not self._backend.truncate(slot.index, slot.position):
            raise StepError(f"{drafted - accepted} tokens on trial cannot be taken back")
