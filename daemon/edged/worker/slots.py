"""The sequences of one backend, and the slots that have them or lent them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edged.worker.slot import Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edged.worker.backends.base import Backend, Sampler
    from edged.worker.output import Output
    from edged.worker.sharing import Sharing
    from edged.worker.waiting import Waiting

WORTH_A_MOVE = 8  # tokens that an answer may still have


class Slots:
    """Iterates over every slot, with a sequence or without."""

    def __init__(self, backend: Backend, sharing: Sharing, count: int) -> None:
        self._backend = backend
        self._sharing = sharing
        self.free = list(range(count - 1, -1, -1))  # the lowest last: it is the next one taken
        self.active: dict[int, Slot] = {}  # key → slot, in order of arrival
        self.parked: dict[int, Slot] = {}  # paused, and their sequence was given to others

    def __iter__(self) -> Iterator[Slot]:
        return iter((*self.active.values(), *self.parked.values()))

    @property
    def at_work(self) -> list[Slot]:
        """Those that take part in steps."""
        return [
            slot
            for slot in self.active.values()
            if not (slot.paused and slot.decoding) and slot.scoring is None
        ]

    @property
    def scoring(self) -> list[Slot]:
        """Those that have read their prompt and score choices."""
        return [slot for slot in self.active.values() if slot.scoring is not None]

    @property
    def resumed(self) -> list[Slot]:
        """Those that could go on, had they a sequence."""
        return [slot for slot in self.parked.values() if not slot.paused]

    @property
    def lendable(self) -> list[Slot]:
        """Those whose readers are slow, so that others may have their sequence."""
        return [slot for slot in self.active.values() if slot.paused and slot.decoding]

    @property
    def deadline(self) -> float:
        """When the time of the first of them is over."""
        return min((slot.deadline for slot in self), default=math.inf)

    def find(self, key: int) -> Slot | None:
        return self.active.get(key) or self.parked.get(key)

    def open(self, request: Waiting, sampler: Sampler, output: Output) -> Slot:
        """A slot in a free sequence, with what is kept of its prompt."""
        slot = Slot(self.free.pop(), request, sampler, output)
        self.active[slot.key] = slot
        self._sharing.begin(slot)
        return slot

    def close(self, slot: Slot) -> None:
        """Its request is over."""
        slot.sampler.close()
        if slot.scoring is not None:
            slot.scoring.close()
        if self.parked.pop(slot.key, None) is None:
            self._vacate(slot)

    def borrow(self, slot: Slot, sequences: list[int]) -> None:
        """``slot`` works in these, too, until it is closed."""
        slot.borrowed = sequences
        self.free = [seq for seq in self.free if seq not in sequences]

    def last_in_turn(self, slot: Slot) -> None:
        """The others come before it."""
        self.active[slot.key] = self.active.pop(slot.key)

    def close_ranks(self) -> None:
        """Move one answer to another sequence where that leaves fewer groups of neighbours.

        The engine evaluates neighbours in one go and every other group in one more, in every step; a copy
        takes about as long as that, once.
        """
        at_work = self.at_work
        taken = {slot.index for slot in at_work}
        least = _groups(taken)
        if least < 2 or not self.free:
            return
        best: tuple[Slot, int] | None = None
        for slot in at_work:
            if slot.borrowed or not slot.decoding or slot.order.max_tokens - slot.generated < WORTH_A_MOVE:
                continue
            for seq in self.free:
                groups = _groups(taken - {slot.index} | {seq})
                if groups < least:
                    least, best = groups, (slot, seq)
        if best is not None:
            slot, seq = best
            self._backend.move(slot.index, seq)
            self.free = sorted([*(one for one in self.free if one != seq), slot.index], reverse=True)
            slot.index = seq

    def make_way(self, wanted: int) -> None:
        """Lend sequences of answers whose readers are slow to ``wanted`` requests, and take them back."""
        resumed = self.resumed
        for slot in self.lendable:
            if len(self.free) >= len(resumed) + wanted:
                break
            self._sharing.park(slot)
            self._vacate(slot)
            self.parked[slot.key] = slot
        for slot in resumed[: len(self.free)]:
            del self.parked[slot.key]
            slot.index = self.free.pop()
            self.active[slot.key] = slot
            self._sharing.resume(slot)

    def _vacate(self, slot: Slot) -> None:
        del self.active[slot.key]
        self._backend.forget(slot.index)
        self.free = sorted([*self.free, *slot.borrowed, slot.index], reverse=True)


def _groups(indices: set[int]) -> int:
    """How many runs of neighbours there are."""
    return sum(index - 1 not in indices for index in indices)
