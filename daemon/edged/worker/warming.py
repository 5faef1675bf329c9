"""Reads system messages before the requests that begin with them, while there is nothing else to do."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from edged.worker.backends.base import Run
from edged.worker.prefixes import key_of
from edged.worker.sharing import LEAST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edged.worker.backends.base import Backend, State
    from edged.worker.prefixes import Prefix
    from edged.worker.sharing import Sharing


class Warming:
    """One step of at most ``chunk`` tokens at a time, in a sequence that is free at that moment.

    ``opening`` gives the tokens that conversations with a system message begin with. What does not fit the
    cache beside what it holds is not kept.
    """

    def __init__(
        self,
        backend: Backend,
        sharing: Sharing,
        systems: Iterable[str],
        opening: Callable[[str], list[int]],
        *,
        chunk: int,
    ) -> None:
        self._backend = backend
        self._sharing = sharing
        self._systems = deque(systems)
        self._opening = opening
        self._chunk = chunk
        self._tokens: list[int] = []  # of the first of the systems, once it has begun
        self._seq: int | None = None
        self._position = 0
        self._part: Prefix[State] | None = None  # kept at an interruption

    @property
    def pending(self) -> bool:
        return bool(self._systems) and self._sharing.on

    def step(self, seq: int) -> None:
        """Read on; the sequence stays in use until ``interrupt``, or until ``pending`` is over."""
        self._tokens = self._tokens or self._opening(self._systems[0])
        if len(self._tokens) < LEAST_TOKENS:
            self._next()
            return
        if self._seq is None:
            self._seq = seq
            self._position = self._sharing.restore(seq, key_of(self._tokens))[0]
        if part := self._tokens[self._position : self._position + self._chunk]:
            self._backend.step([Run(self._seq, part, self._position, output=False)])
            self._position += len(part)
            if self._position == len(self._tokens):
                self._keep(self._seq)
        if self._position == len(self._tokens):
            self._next()

    def interrupt(self) -> None:
        """Somebody needs the sequence: keep what is read so far for them, or for later."""
        if self._seq is not None and self._sharing.on and self._position >= LEAST_TOKENS:
            self._keep(self._seq)
        self._leave()

    def _keep(self, seq: int) -> None:
        """What is read so far, in place of what was read before an interruption."""
        if self._part is not None:
            self._sharing.store.drop(self._part.key)
        self._part = self._sharing.keep(seq, self._tokens[: self._position], shared=True, evict=False)

    def _next(self) -> None:
        self._systems.popleft()
        self._tokens, self._part = [], None
        self._leave()

    def _leave(self) -> None:
        if self._seq is not None:
            self._backend.forget(self._seq)
        self._seq, self._position = None, 0
