"""Follows a request's events and its client at the same time: whichever ends first ends both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive

    from edged.api.events import Event


class ClientGone(Exception):
    """The peer closed its connection; nobody is left to answer."""


async def watched(
    events: AsyncGenerator[Event, None], receive: Receive, silence_s: float
) -> AsyncGenerator[Event | None, None]:
    """Each event as it comes; None after every ``silence_s`` without one.

    Raises ClientGone as soon as the client hangs up. ``events`` is closed at the end in every case,
    which frees the slot. The request body must have been read.
    """
    hangup = asyncio.ensure_future(_hangup(receive))
    step: asyncio.Future[Event | None] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(_next(events))
            both: set[asyncio.Future[Any]] = {step, hangup}
            done, _ = await asyncio.wait(both, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if hangup in done:
                raise ClientGone
            if step not in done:
                yield None
                continue
            event, step = step.result(), None
            if event is None:
                return
            yield event
    finally:
        tasks = [task for task in (step, hangup) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await events.aclose()


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    try:
        return await anext(events)
    except StopAsyncIteration:
        return None


async def _hangup(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
