"""What a client gets back: answers, the text of one while it is being written, scores and vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from msgspec import Struct

from edged.api.events import Accepted, Delta, Finished, FinishReason, Score, Timings, TokenLogprob, Usage
from edged.api.requests import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from edged.api.events import Event


class Answer(Struct, frozen=True, kw_only=True):
    """The whole answer.

    ``finish`` is "stop"; "length" when it was cut at max_tokens or the context; "tool_calls" when functions
    are to be called; "repetition" when the model ran in a circle. ``reasoning`` is its thought.
    ``usage.cached_tokens`` of the prompt were not evaluated again. ``logprobs`` is None unless asked for.
    """

    text: str
    finish: FinishReason
    usage: Usage
    timings: Timings
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding speed after the first token; None for answers of fewer than two tokens."""
        decode_ms = self.timings.total_ms - self.timings.first_ms
        if self.usage.completion_tokens < 2 or decode_ms <= 0:
            return None
        return (self.usage.completion_tokens - 1) * 1000 / decode_ms

    @classmethod
    def of(cls, event: Finished) -> Answer:
        return cls(
            text=event.text,
            finish=event.finish,
            usage=event.usage,
            timings=event.timings,
            reasoning=event.reasoning,
            tool_calls=event.tool_calls,
            logprobs=event.logprobs,
        )


class Classification(Struct, frozen=True, kw_only=True):
    """How likely each choice is as the answer; ``choice`` is the likeliest.

    ``scores`` are in the order of the choices; their probabilities sum to 1.
    """

    choice: str
    scores: tuple[Score, ...]
    usage: Usage
    timings: Timings


class Embeddings(Struct, frozen=True, kw_only=True):
    """One vector of Euclidean length 1 for each text, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    timings: Timings


class AnswerStream:
    """The text of one answer, piece by piece as it is written; pieces joined are ``answer.text``.

    Leaving it early (`close`, the end of a `with` block, or dropping it) cancels the request on the box.
    Iterating raises what the request failed with.
    """

    def __init__(self, events: Generator[Event, None, None]) -> None:
        self._events = events
        self._answer: Answer | None = None
        self.accepted: Accepted | None = None  # place in the queue, once the box has told it
        self.on_complete: Callable[[Answer], None] | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer; raises RuntimeError before the stream has ended."""
        if self._answer is None:
            raise RuntimeError("the answer is not complete: read the stream to its end first")
        return self._answer

    def read(self) -> Answer:
        """Take the rest of the stream and return the whole answer."""
        for _piece in self:
            pass
        return self.answer

    def close(self) -> None:
        self._events.close()

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> str:
        for event in self._events:
            if isinstance(event, Delta) and event.text and event.channel == "text":
                return event.text
            if isinstance(event, Accepted):
                self.accepted = event
            if isinstance(event, Finished):
                self._answer = Answer.of(event)
                if self.on_complete is not None:
                    self.on_complete(self._answer)
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
