"""Reads system messages before the requests that begin with them, while there is nothing else to do."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from edged.worker.backends.base import Run
from edged.worker.prefixes import key_of
from edged.worker.sharing import LEAST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edged.worker.backends.base import Backend
    from edged.worker.sharing import Sharing


class Warming:
    """One step of at most ``chunk`` tokens at a time, in a sequence that is free at that moment.

    ``opening`` gives the tokens that conversations with a system message begin with. What does not fit the
    cache beside what it holds is not kept; what leaves no room for a request is not read.
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
        self._all = tuple(systems)
        self._systems = deque(self._all)
        self._opening = opening
        self._chunk = chunk
        self._tokens: list[int] = []  # of the first of the systems, once it has begun
        self._seq: int | None = None
        self._position = 0
        self._part = b""  # the key of what was kept at an interruption

    @property
    def pending(self) -> bool:
        return bool(self._systems) and self._sharing.on

    def step(self, seq: int) -> None:
        """Read on; the sequence stays in use until ``interrupt``, or until ``pending`` is over."""
        self._tokens = self._tokens or self._opening(self._systems[0])
        if not LEAST_TOKENS <= len(self._tokens) < self._backend.context:
            self._next()
            return
        if self._seq is None:
            self._seq = seq
            self._position, _ = self._sharing.restore(seq, key_of(self._tokens))
        if part := self._tokens[self._position : self._position + self._chunk]:
            self._backend.step([Run(self._seq, part, self._position, output=False)])
            self._position += len(part)
            if self._position == len(self._tokens):
                self._keep(self._seq)
        if self._position == len(self._tokens):
            self._next()

    def again(self) -> None:
        """Read all of them once more, as far as they are not kept."""
        self.interrupt()
        self._systems = deque(self._all)
        self._tokens, self._part = [], b""

    def interrupt(self) -> None:
        """Somebody needs the sequence: keep what is read so far for them, or for later."""
        if self._seq is not None and self._sharing.on and self._position >= LEAST_TOKENS:
            self._keep(self._seq)
        self._leave()

    def _keep(self, seq: int) -> None:
        """What is read so far, in place of what was read before an interruption."""
        self._sharing.store.drop(self._part)
        kept = self._sharing.keep(seq, self._tokens[: self._position], shared=True, evict=False)
        self._part = kept.key if kept is not None else b""

    def _next(self) -> None:
        self._systems.popleft()
        self._tokens, self._part = [], b""
        self._leave()

    def _leave(self) -> None:
        if self._seq is not None:
            self._backend.forget(self._seq)
        self._seq, self._position = None, 0
