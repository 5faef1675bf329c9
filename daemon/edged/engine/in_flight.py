"""The requests that a worker has in hand: each is told what the worker says of it, and ends exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from edged.ipc.messages import Cancel, Done, Pause, Rejected, Resume, Start, Token

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.ipc.messages import ToWorker


class Sink(Protocol):
    """Where the words about one request go; after Done, Rejected or ``lost`` there are no more."""

    def message(self, message: Token | Done | Rejected) -> None: ...

    def lost(self, why: str) -> None: ...


class InFlight:
    """By the keys that they have in messages; ``tell`` puts a message on its way to the worker."""

    def __init__(self, tell: Callable[[ToWorker], None]) -> None:
        self._tell = tell
        self._sinks: dict[int, Sink] = {}
        self._paused: dict[int, float] = {}  # since when, by the clock of the loop
        self._next_key = 0
        self._none = asyncio.Event()
        self._none.set()
        self.alone = 0  # the request that has had the engine to itself, if there is one

    def __len__(self) -> int:
        return len(self._sinks)

    @property
    def paused(self) -> int:
        """Requests whose slots are lent to others."""
        return len(self._paused)

    def start(self, order: Start, sink: Sink) -> int:
        """Give ``order`` to the worker; its key."""
        self._next_key += 1
        key = self._next_key
        self.alone = 0 if self._sinks else key
        self._sinks[key] = sink
        self._none.clear()
        self._tell(structs.replace(order, key=key))
        return key

    def cancel(self, key: int) -> None:
        if key in self._sinks:
            self._tell(Cancel(key=key))

    def pause(self, key: int) -> bool:
        """Whether there is such a request, and so another slot."""
        if key not in self._sinks:
            return False
        self._paused.setdefault(key, asyncio.get_running_loop().time())
        self.alone = 0  # its reader is what it waits for now
        self._tell(Pause(key=key))
        return True

    def resume(self, key: int) -> None:
        if key in self._sinks:
            self._paused.pop(key, None)
            self._tell(Resume(key=key))

    def heard(self, message: Token | Done | Rejected) -> bool:
        """Tell a request what the worker says of it; True when that was its end."""
        if isinstance(message, Token):
            if (sink := self._sinks.get(message.key)) is not None:
                sink.message(message)
            return False
        if (sink := self._sinks.pop(message.key, None)) is None:
            return False
        self._paused.pop(message.key, None)
        sink.message(message)
        if not self._sinks:
            self._none.set()
        return True

    def abandon(self, why: str) -> None:
        """End all of them."""
        for key in tuple(self._sinks):
            self._lose(key, why)

    def _lose(self, key: int, why: str) -> None:
        sink = self._sinks.pop(key)
        self._paused.pop(key, None)
        if not self._sinks:
            self._none.set()
        sink.lost(why)

    async def none(self, limit_s: float | None = None) -> None:
        """Return when there is none, or after ``limit_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._sinks:
                    await self._none.wait()

    async def none_unread(self, grace_s: float, why: str) -> None:
        """Return when there is none; those that have been paused for ``grace_s`` end, because of ``why``."""
        while self._sinks:
            await self.none(grace_s)
            latest = asyncio.get_running_loop().time() - grace_s
            for key, since in tuple(self._paused.items()):
                if since <= latest:
                    self.cancel(key)
                    self._lose(key, f"nobody read this answer while {why}")
