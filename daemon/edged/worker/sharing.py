"""Gives a slot what was evaluated before, and keeps of its work what others will begin with."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from edged.worker.backends.base import State, StateError
from edged.worker.prefixes import Prefix, PrefixStore, common_tokens, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edged.worker.backends.base import Backend
    from edged.worker.kept import KeptPrefixes
    from edged.worker.prompt import Prompt
    from edged.worker.slot import Slot

log = logging.getLogger("edged.worker")

LEAST_TOKENS = 32  # what saves less is not worth a copy, a step cut short, or a wait
LEAST_FIRST_TOKENS = 64  # most first turns are the only ones, and a stop takes a pass of its own and a copy
LEAST_LEARNED_TOKENS = 64  # two prompts with so much in common have it from a program
PROMPTS_REMEMBERED = 8


class Sharing:
    """The prefix store of one backend, at work. With a limit of 0 bytes nothing is kept, and nobody waits.

    What proves useful to many is also written to ``kept``.
    """

    def __init__(self, backend: Backend, limit_bytes: int, kept: KeptPrefixes | None = None) -> None:
        self._backend = backend
        self._kept = kept
        self._recent: deque[bytes] = deque(maxlen=PROMPTS_REMEMBERED)
        self._too_long = backend.context + 1  # tokens; the state of so many did not fit
        self.store: PrefixStore[State] = PrefixStore(limit_bytes)

    @property
    def on(self) -> bool:
        return self.store.limit_bytes > 0

    def load(self, seq: int) -> None:
        """Take in what a worker before this one has kept on disk and the engine accepts in ``seq``."""
        if self._kept is None:
            return
        for prefix in self._kept.read(self.store.free_bytes):
            try:
                self._backend.restore(seq, prefix.state, prefix.length)
            except StateError as error:
                self._kept.refuse(prefix, error)
            else:
                self.store.put(prefix)
            self._backend.forget(seq)

    def shrink(self, limit_bytes: int) -> None:
        """Keep no more than ``limit_bytes`` from now on."""
        self.store.shrink(limit_bytes)
        self._too_long = self._backend.context + 1

    def leader(self, prompt: Prompt, slots: Iterable[Slot]) -> Slot | None:
        """The slot that reads right now what ``prompt`` begins with, when that is worth waiting for.

        It will stop where the two part, so that its state can be kept. Ask again after each step: it may
        be there, or gone.
        """
        if not self.on:
            return None
        found = self._longest(prompt.beginning)
        most = (found[1] if found else 0) + LEAST_TOKENS - 1
        best: Slot | None = None
        for slot in slots:
            length = min(common_tokens(prompt.beginning, slot.prompt.beginning), self._too_long - 1)
            # A stop it makes anyway will do when it is near enough.
            planned = max((stop for stop in slot.stops if stop <= length), default=0)
            length = planned if length - planned < LEAST_TOKENS else length
            if length > max(most, slot.position):
                best, most = slot, length
        if best is not None:
            best.stops[most] = True
        return best

    def begin(self, slot: Slot) -> None:
        """Restore the longest beginning that is kept of the slot's prompt, and plan its stops."""
        if not self.on:
            return
        prompt = slot.prompt
        slot.position, slot.origin = self.restore(slot.index, prompt.beginning)
        slot.kept = slot.cached = slot.position
        learned = max((common_tokens(prompt.beginning, other) for other in self._recent), default=0)
        self._recent.append(prompt.beginning)
        wanted = {prompt.turn: False, prompt.shared: True}
        if learned >= LEAST_LEARNED_TOKENS:
            wanted[learned] = True
        last = slot.kept
        for stop in sorted(wanted):
            least = LEAST_TOKENS
            if stop == prompt.turn:
                least = 1 if prompt.continued else LEAST_FIRST_TOKENS
            if last + least <= stop < min(len(prompt.tokens), self._too_long):
                slot.stops[stop] = wanted[stop]
                last = stop

    def stepped(self, slot: Slot) -> None:
        """After a step: keep the state of a slot that has come to a stop."""
        if slot.position in slot.stops:
            self._keep(slot, shared=slot.stops.pop(slot.position))

    def leaving(self, slot: Slot, *, whole: bool) -> None:
        """Before a slot is freed: keep what the next turn, or a second try, can go on from.

        ``whole``: the answer came to its own end, so that all of it will be in the conversation.
        """
        least = 1 if slot.prompt.continued else LEAST_TOKENS
        if not self.on or slot.position - slot.kept < least:
            return
        reading = slot.position < slot.prompt_tokens
        if reading or self._backend.can_truncate or (whole and slot.prompt.keeps_answer):
            self._keep(slot, shared=False)

    def park(self, slot: Slot) -> None:
        """Before a slot lends its sequence: keep the state, if there is room; else it is made again."""
        if self.on:
            self._keep(slot, shared=False)

    def resume(self, slot: Slot) -> None:
        """Into an empty sequence, all that is kept of what the slot had evaluated; the rest is pending."""
        slot.position, slot.origin = self.restore(slot.index, key_of(slot.tokens[:-1]))
        slot.kept = slot.position

    def restore(self, seq: int, wanted: bytes) -> tuple[int, bytes]:
        """The longest beginning of ``wanted`` that is kept, into an empty sequence: tokens, and its key."""
        backend = self._backend
        while (found := self._longest(wanted)) is not None:
            prefix, length = found
            try:
                backend.restore(seq, prefix.state, prefix.length)
            except StateError as error:
                log.warning("a kept prefix of %d tokens is of no use: %s", prefix.length, error)
                self.store.drop(prefix.key)
                continue
            backend.truncate(seq, length)
            self.store.hit(prefix)
            if prefix.shared and self._kept is not None and prefix.hits == 1:
                self._kept.write(prefix)
            return length, prefix.key
        return 0, b""

    def keep(
        self,
        seq: int,
        tokens: list[int],
        *,
        shared: bool,
        evict: bool = True,
        instead_of: Prefix[State] | None = None,
    ) -> Prefix[State] | None:
        """Save a sequence that has evaluated ``tokens``; None when there is no room for it.

        Without ``evict`` nothing else is let go of for it; ``instead_of`` may go first.
        """
        key = key_of(tokens)
        size_bytes = self._backend.state_bytes(seq) + len(key)
        if not evict and size_bytes > self.store.free_bytes:
            return None
        if not self.store.make_room(size_bytes, instead_of):
            self._too_long = min(self._too_long, len(tokens))
            return None
        try:
            state = self._backend.save(seq)
        except StateError as error:
            log.warning("a prefix of %d tokens is not kept: %s", len(tokens), error)
            return None
        prefix = Prefix(key, state, size_bytes, shared=shared)
        self.store.put(prefix)
        return prefix

    def _keep(self, slot: Slot, *, shared: bool) -> None:
        # The earlier turn of this conversation will hardly be asked for again.
        earlier = self.store.get(slot.origin)
        if earlier is not None and (earlier.shared or earlier.length > slot.kept):
            earlier = None
        prefix = self.keep(slot.index, slot.tokens[: slot.position], shared=shared, instead_of=earlier)
        if prefix is not None:
            slot.kept, slot.origin = prefix.length, prefix.key

    def _longest(self, key: bytes) -> tuple[Prefix[State], int] | None:
        return self.store.longest(key, cut=self._backend.can_truncate, least=LEAST_TOKENS)
