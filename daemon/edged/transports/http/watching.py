"""What goes on beside an answer: its client may hang up, and a stream must not be silent for long."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.types import Receive


class ClientGone(Exception):
    """The peer closed its connection; nobody is left to answer."""


@asynccontextmanager
async def connected(receive: Receive) -> AsyncGenerator[None, None]:
    """What is inside ends, wherever it waits, as soon as the client hangs up.

    Raises ClientGone then. The request body must have been read.
    """
    hangup = asyncio.ensure_future(_hangup(receive))
    try:
        async with asyncio.timeout(None) as scope:

            def leave(_: asyncio.Future[None]) -> None:
                if inside:
                    scope.reschedule(asyncio.get_running_loop().time())

            inside = True
            hangup.add_done_callback(leave)
            try:
                yield
            finally:
                inside = False
    except TimeoutError:
        if scope.expired():
            raise ClientGone from None
        raise
    finally:
        hangup.cancel()
        await asyncio.gather(hangup, return_exceptions=True)


class Voice:
    """Sends a stream, and ``silence`` whenever nothing has been sent for ``silence_s``."""

    def __init__(
        self, send: Callable[[bytes], Awaitable[None]], silence: Callable[[], bytes], silence_s: float
    ) -> None:
        self._send = send
        self._silence = silence
        self._silence_s = silence_s
        self._clock = asyncio.get_running_loop().time
        self._spoke_at = self._clock()
        self._speaking = False

    async def say(self, data: bytes) -> None:
        if not data:
            return
        self._speaking = True
        await self._send(data)
        self._speaking = False
        self._spoke_at = self._clock()

    @asynccontextmanager
    async def never_silent(self) -> AsyncGenerator[None, None]:
        """As long as what is inside goes on."""
        task = asyncio.ensure_future(self._fill())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _fill(self) -> None:
        while True:
            quiet_s = self._clock() - self._spoke_at
            if quiet_s >= self._silence_s and not self._speaking:
                await self.say(self._silence())
                quiet_s = 0.0
            await asyncio.sleep(max(self._silence_s - quiet_s, self._silence_s / 10))


async def _hangup(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
