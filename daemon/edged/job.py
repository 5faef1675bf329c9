"""One accepted request on its way: its clocks, what was said so far, the events its reader has not taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edged.api.events import (
    CallPiece,
    Channel,
    Delta,
    Event,
    Finished,
    Terminal,
    Timings,
    TokenLogprob,
    whole_calls,
)
from edged.scheduling.forecast import Work

if TYPE_CHECKING:
    from edged.api.requests import Request
    from edged.ipc.messages import Done, Start, Token


MOST_UNREAD = 64  # deltas; a reader of a stream is seconds behind then
FEW_UNREAD = 16  # by the time they are read the next ones are there


class Job:
    """Lives from acceptance to its one terminal event."""

    def __init__(self, request: Request, order: Start, now: float, deadline: float) -> None:
        self.request = request
        self.order = order
        self.accepted_at = now
        self.deadline = deadline
        self.started_at = now
        self.first_at: float | None = None
        self.last_at: float | None = None  # of the last piece; None after a pause
        self.heard_tokens = 0  # from the engine
        self.work = Work()  # that it is expected to be
        self.ticket = 0
        self.key: int | None = None
        self.events: asyncio.Queue[Event] = asyncio.Queue()  # bounded by pausing, see ``behind``
        self.ended = False
        self.paused = False  # the engine was told to wait for the reader
        self._deltas = 0
        self._said: dict[Channel, list[str]] = {"text": [], "reasoning": []}
        self._tool_calls: list[CallPiece] = []
        self._logprobs: list[TokenLogprob] = []

    @property
    def behind(self) -> bool:
        """The reader has so much to take that the answer should wait for it."""
        return self.events.qsize() >= (FEW_UNREAD if self.paused else MOST_UNREAD)

    def delta(self, token: Token) -> None:
        """Tell what ``token`` adds to the answer, if anything."""
        if not (token.text or token.tool_calls or token.logprobs):
            return
        self.events.put_nowait(
            Delta(
                id=self.request.id,
                seq=self._deltas,
                text=token.text,
                channel=token.channel,
                tool_calls=token.tool_calls,
                logprobs=token.logprobs,
            )
        )
        self._deltas += 1
        self._said[token.channel].append(token.text)
        self._tool_calls += token.tool_calls
        self._logprobs += token.logprobs

    def finished(self, done: Done, now: float) -> Finished:
        """The whole answer, which has just come to its end."""
        timings = Timings(
            queue_ms=(self.started_at - self.accepted_at) * 1000,
            first_ms=((self.first_at or now) - self.accepted_at) * 1000,
            total_ms=(now - self.accepted_at) * 1000,
        )
        return Finished(
            id=self.request.id,
            text="".join(self._said["text"]),
            reasoning="".join(self._said["reasoning"]),
            tool_calls=whole_calls(self._tool_calls),
            logprobs=None if self.request.logprobs is None else tuple(self._logprobs),
            finish=done.finish,
            usage=done.usage,
            timings=timings,
            scores=done.scores,
            embeddings=done.embeddings,
        )

    def end(self, event: Terminal) -> bool:
        """Put the terminal event, once; False when there was one already."""
        if self.ended:
            return False
        self.ended = True
        self.events.put_nowait(event)
        return True
