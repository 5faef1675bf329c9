"""Answers as edged's HTTP tells them: the OpenAI dialect, and /v1/classify. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec
from msgspec import Meta, Struct, field

from edgectl.client.vectors import floats
from edgectl.errors import NotFound, Unauthorized, Unhealthy
from edged.api.errors import BY_CODE, BadRequest, Busy, EdgeError, Internal
from edged.api.events import (
    Alternative,
    CallPiece,
    Channel,
    Delta,
    Finished,
    FinishReason,
    Score,
    Timings,
    TokenLogprob,
    Usage,
    whole_calls,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edged.api.requests import Request

_FINISHES: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
_BY_CODE: dict[str, type[EdgeError]] = {
    **BY_CODE,
    "unauthorized": Unauthorized,
    "not_found": NotFound,
    "too_many_connections": Busy,
}


class _Function(Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class _Call(Struct, frozen=True):
    """A call, or with an index a piece of one."""

    id: str = ""
    index: int | None = None
    function: _Function = _Function()


class _Message(Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class _Token(Struct, frozen=True):
    token: str = ""
    logprob: float = 0.0
    values: tuple[Annotated[int, Meta(ge=0, le=255)], ...] | None = field(default=None, name="bytes")

    @property
    def raw(self) -> bytes:
        return self.token.encode() if self.values is None else bytes(self.values)


class _ChatToken(_Token, frozen=True):
    top_logprobs: tuple[_Token, ...] = ()


class _Logprobs(Struct, frozen=True):
    """A list of tokens in chats, parallel lists in plain completions."""

    content: tuple[_ChatToken, ...] | None = None
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[dict[str, float], ...] = ()

    @property
    def told(self) -> Iterator[TokenLogprob]:
        for one in self.content or ():
            top = tuple(Alternative(other.raw, other.logprob) for other in one.top_logprobs)
            yield TokenLogprob(one.raw, one.logprob, top)
        for token, logprob, others in zip(self.tokens, self.token_logprobs, self.top_logprobs, strict=False):
            top = tuple(Alternative(other.encode(), value) for other, value in others.items())
            yield TokenLogprob(token.encode(), logprob, top)


class _Choice(Struct, frozen=True):
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> _Message:
        return self.message or self.delta or _Message(content=self.text)


class _Cached(Struct, frozen=True):
    cached_tokens: int = 0


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Cached | None = None


class _Failure(Struct, frozen=True):
    message: str = ""
    code: str | int | None = None
    retry_after_s: float | None = None


class _Vector(Struct, frozen=True):
    embedding: str


class Chunk(Struct, frozen=True):
    """A whole answer, or one event of a streamed one."""

    choices: tuple[_Choice, ...] = ()
    choice: str | None = None  # of a classification
    scores: tuple[Score, ...] = ()
    data: tuple[_Vector, ...] | None = None
    usage: _Usage | None = None
    timings: Timings | None = None
    error: _Failure | None = None


class _ErrorBody(Struct, frozen=True):
    error: _Failure
    retry_after_s: float | None = None


def chunk(data: str | bytes) -> Chunk:
    """Raises the error it carries, or Unhealthy when it is not what edged sends."""
    try:
        found = msgspec.json.decode(data, type=Chunk)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unhealthy(
            f"the answer is not what edged sends: {error}", hint="is the address that of an edged box?"
        ) from None
    if found.error is not None:
        raise typed(found.error, 500, found.error.retry_after_s)
    return found


class Collected:
    """Puts the answer to one request together from its chunks; a whole answer is a single one."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._said: dict[Channel, list[str]] = {"text": [], "reasoning": []}
        self._calls: list[CallPiece] = []
        self._logprobs: list[TokenLogprob] = []
        self._scores: tuple[Score, ...] = ()
        self._vectors: tuple[tuple[float, ...], ...] = ()
        self._usage = _Usage()
        self._deltas = 0
        self.timings: Timings | None = None
        self.finish: str | None = None  # set once the answer is complete

    @property
    def chars(self) -> int:
        return sum(map(len, self._said["text"]))

    def add(self, chunk: Chunk) -> list[Delta]:
        """What ``chunk`` says that is new. Raises Unhealthy when that makes no sense."""
        self._usage = chunk.usage or self._usage
        self.timings = chunk.timings or self.timings
        if chunk.choice is not None or chunk.data is not None:
            self._at_once(chunk)
        deltas = [delta for choice in chunk.choices[:1] for delta in self._take(choice)]
        for delta in deltas:
            self._said[delta.channel].append(delta.text)
            self._calls += delta.tool_calls
            self._logprobs += delta.logprobs
        return deltas

    def finished(self, timings: Timings) -> Finished:
        """The whole answer; ``timings`` for servers that do not tell theirs."""
        usage = self._usage
        cached = usage.prompt_tokens_details or _Cached()
        return Finished(
            id=self._request.id,
            text="".join(self._said["text"]),
            reasoning="".join(self._said["reasoning"]),
            tool_calls=whole_calls(self._calls),
            logprobs=None if self._request.logprobs is None else tuple(self._logprobs),
            finish=_FINISHES.get(self.finish or "", "stop"),
            usage=Usage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=cached.cached_tokens,
            ),
            timings=self.timings or timings,
            scores=self._scores,
            embeddings=self._vectors,
        )

    def _at_once(self, chunk: Chunk) -> None:
        self._said["text"] = [chunk.choice or ""]
        self._scores = chunk.scores
        self._vectors = tuple(floats(one.embedding) for one in chunk.data or ())
        self.finish = "stop"

    def _take(self, choice: _Choice) -> Iterator[Delta]:
        self.finish = choice.finish_reason or self.finish
        said = choice.said
        if said.reasoning_content:
            yield self._delta(text=said.reasoning_content, channel="reasoning")
        pieces = tuple(
            CallPiece(
                index=number if call.index is None else call.index,
                id=call.id,
                name=call.function.name,
                arguments=call.function.arguments,
            )
            for number, call in enumerate(said.tool_calls or ())
        )
        logprobs = tuple(choice.logprobs.told) if choice.logprobs else ()
        if said.content or pieces or logprobs:
            yield self._delta(text=said.content or "", tool_calls=pieces, logprobs=logprobs)

    def _delta(self, **fields: Any) -> Delta:
        self._deltas += 1
        return Delta(id=self._request.id, seq=self._deltas - 1, **fields)


def failure(status: int, headers: Mapping[str, str], raw: bytes) -> EdgeError:
    """The error in an answer of ``status`` that is not 2xx."""
    try:
        found = msgspec.json.decode(raw, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = headers.get("content-type", "no content type")
        return Unhealthy(
            f"the server answers with status {status} ({kind}), which is not how edged does",
            hint="is the address that of an edged box, with the right port?",
        )
    after = found.error.retry_after_s
    after = found.retry_after_s if after is None else after
    return typed(found.error, status, _seconds(headers.get("retry-after")) if after is None else after)


def typed(error: _Failure, status: int, retry_after_s: float | None) -> EdgeError:
    unknown = BadRequest if 400 <= status < 500 else Internal
    kind = _BY_CODE.get(str(error.code), unknown)
    hint = "name the file that holds its key with --key-file" if kind is Unauthorized else ""
    return kind(error.message or f"refused with status {status}", hint=hint, retry_after_s=retry_after_s)


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None
