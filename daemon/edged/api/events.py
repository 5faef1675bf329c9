"""What a client hears about its request: any number of deltas, exactly one terminal event."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from edged.api.errors import BY_CODE, EdgeError, Internal

FinishReason = Literal["stop", "length"]  # stop: end of turn or a stop string; length: max_tokens or context


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts; ``cached_tokens`` of the prompt were not evaluated again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


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


class Delta(Struct, frozen=True, kw_only=True, tag="delta"):
    """More text, whole code points only. ``seq`` counts from 0 without gaps."""

    id: str
    seq: int
    text: str


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """The whole answer; ``text`` equals the deltas joined."""

    id: str
    text: str
    finish: FinishReason
    usage: Usage
    timings: Timings


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
