"""Reads system messages before the requests that begin with them, while there is nothing else to do."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from edged.worker.backends.base import Run
from edged.worker.prefixes import key_of
from edged.worker.sharing import LEAST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edged.worker.backends.base import Backend, State
    from edged.worker.prefixes import Prefix
    from edged.worker.sharing import Sharing


class Warming:
    """One step of at most ``chunk`` tokens at a time, in a sequence that is free at that moment.

    What does not fit the cache beside what it holds is not kept.
    """

    def __init__(
        self, backend: Backend, sharing: Sharing, openings: Iterable[list[int]], *, chunk: int
    ) -> None:
        self._backend = backend
        self._sharing = sharing
        self._openings = deque(tokens for tokens in openings if len(tokens) >= LEAST_TOKENS)
        self._chunk = chunk
        self._seq: int | None = None
        self._position = 0
        self._part: Prefix[State] | None = None

    @property
    def pending(self) -> bool:
        return bool(self._openings) and self._sharing.on

    def step(self, seq: int) -> None:
        """Read on; the sequence stays in use until ``interrupt``, or until ``pending`` is over."""
        tokens = self._openings[0]
        if self._seq is None:
            self._seq = seq
            self._position = self._sharing.restore(seq, key_of(tokens))[0]
        if part := tokens[self._position : self._position + self._chunk]:
            self._backend.step([Run(self._seq, part, self._position, output=False)])
            self._position += len(part)
            if self._position == len(tokens):
                self._keep()
        if self._position == len(tokens):
            self._openings.popleft()
            self._part = None
            self._leave()

    def interrupt(self) -> None:
        """Somebody needs the sequence: keep what is read so far for them, or for later."""
        if self._seq is None:
            return
        if self._sharing.on and self._position >= LEAST_TOKENS:
            self._keep()
        self._leave()

    def _keep(self) -> None:
        """What is read so far, in place of what was read before an interruption."""
        if self._seq is None:
            return
        if self._part is not None:
            self._sharing.store.drop(self._part.key)
        read = self._openings[0][: self._position]
        self._part = self._sharing.keep(self._seq, read, shared=True, evict=False)

    def _leave(self) -> None:
        if self._seq is not None:
            self._backend.forget(self._seq)
        self._seq, self._position = None, 0
