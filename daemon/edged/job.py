"""One accepted request on its way: its clocks, what was said so far, the events its reader has not taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edged.api.events import Channel, Delta, Event, Finished, Terminal, Timings, TokenLogprob

if TYPE_CHECKING:
    from edged.api.requests import Request, ToolCall
    from edged.ipc.messages import Done, Token


class Job:
    """Lives from acceptance to its one terminal event."""

    def __init__(self, request: Request, now: float, deadline: float) -> None:
        self.request = request
        self.accepted_at = now
        self.deadline = deadline
        self.started_at = now
        self.first_at: float | None = None
        self.ticket = 0
        self.key: int | None = None
        self.events: asyncio.Queue[Event] = asyncio.Queue()  # bounded by max_tokens deltas and one terminal
        self.ended = False
        self._deltas = 0
        self._said: dict[Channel, list[str]] = {"text": [], "reasoning": []}
        self._tool_calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] = []

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

    def finished(self, done: Done, timings: Timings) -> Finished:
        """The whole answer."""
        return Finished(
            id=self.request.id,
            text="".join(self._said["text"]),
            reasoning="".join(self._said["reasoning"]),
            tool_calls=tuple(self._tool_calls),
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
