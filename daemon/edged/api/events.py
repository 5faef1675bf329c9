"""What a client hears about its request: any number of deltas, exactly one terminal event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from edged.api.errors import BY_CODE, EdgeError, Internal
from edged.api.requests import ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterable

# stop: end of turn or a stop string; length: max_tokens or context; tool_calls: the model wants functions
# called; repetition: it ran in a circle and was stopped
FinishReason = Literal["stop", "length", "tool_calls", "repetition"]
Channel = Literal["text", "reasoning"]


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts; ``cached_tokens`` of the prompt were not evaluated again.

    ``reasoning_tokens`` of the completion were a thought, when there was one.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int | UnsetType = UNSET


class Timings(Struct, frozen=True, kw_only=True):
    """Milliseconds since acceptance: until it left the queue, first token, last token."""

    queue_ms: float
    first_ms: float
    total_ms: float


class Accepted(Struct, frozen=True, kw_only=True, tag="accepted"):
    """``position`` requests are ahead in the queue; ``eta_s`` until the first token, if known."""

    id: str
    position: int
    eta_s: float | None = None


class Alternative(Struct, frozen=True):
    """A token by its bytes, which may end inside a code point, and its natural log-probability."""

    token: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True):
    """The token that was drawn, and the likeliest ones in its place, the likeliest first."""

    token: bytes
    logprob: float
    top: tuple[Alternative, ...] = ()


class Score(Struct, frozen=True):
    """``probability`` among the choices of one request, which sum to 1.

    ``logprob`` is the sum of the natural log-probabilities, among the whole vocabulary, of the ``tokens``
    that ``probability`` is made of: all of the choice, or those that tell it from the others.
    """

    choice: str
    probability: float
    logprob: float
    tokens: int = 1


class CallPiece(Struct, frozen=True, kw_only=True):
    """Part of call number ``index``; only the first one has its id and name.

    The arguments of all of them, joined, are those of the call.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


def whole_calls(pieces: Iterable[CallPiece]) -> tuple[ToolCall, ...]:
    """The calls that ``pieces`` make up, in order."""
    first: dict[int, CallPiece] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        first.setdefault(piece.index, piece)
        arguments.setdefault(piece.index, []).append(piece.arguments)
    return tuple(
        ToolCall(id=piece.id, name=piece.name, arguments="".join(arguments[index]))
        for index, piece in first.items()
    )


class Delta(Struct, frozen=True, kw_only=True, tag="delta"):
    """More of the answer: text of one channel in whole code points, pieces of tool calls, or both.

    ``seq`` counts from 0 without gaps. ``logprobs`` are those of the tokens of the text channel.
    """

    id: str
    seq: int
    text: str = ""
    channel: Channel = "text"
    tool_calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """The whole answer; ``text`` and ``reasoning`` equal the deltas of their channel joined.

    The arguments of ``tool_calls`` are cut where the answer was, when it is cut inside of a call.
    ``scores`` are the answer to ``classify`` in the order of its choices, ``embeddings`` the answer to
    ``embed``, one vector for each input.
    """

    id: str
    text: str
    finish: FinishReason
    usage: Usage
    timings: Timings
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    scores: tuple[Score, ...] = ()
    embeddings: tuple[tuple[float, ...], ...] = ()


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """No answer; ``code`` is one of edged.api.errors.BY_CODE."""

    id: str
    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None

    @classmethod
    def of(cls, request_id: str, error: EdgeError) -> Failed:
        return cls(
            id=request_id,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
        )

    def error(self) -> EdgeError:
        """The same failure as an exception."""
        return BY_CODE.get(self.code, Internal)(self.message, retry_after_s=self.retry_after_s)


Terminal: TypeAlias = Finished | Failed
Event: TypeAlias = Accepted | Delta | Finished | Failed
