"""Requests and answers as edged's OpenAI-compatible HTTP speaks them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec import Struct

from edgectl.errors import NotFound, Unauthorized, Unhealthy
from edged.api.errors import BY_CODE, BadRequest, Busy, EdgeError, Internal
from edged.api.events import Finished, FinishReason, Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.api.requests import Request

PATHS = {"chat": "/v1/chat/completions", "generate": "/v1/completions"}
_FINISHES: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
_BY_CODE: dict[str, type[EdgeError]] = {
    **BY_CODE,
    "unauthorized": Unauthorized,
    "not_found": NotFound,
    "too_many_connections": Busy,
}


class _Message(Struct, frozen=True):
    content: str | None = None


class _Choice(Struct, frozen=True):
    message: _Message = _Message()
    delta: _Message = _Message()
    text: str | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        return self.text or self.message.content or self.delta.content or ""


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


class Chunk(Struct, frozen=True):
    """A whole answer, or one event of a streamed one."""

    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    timings: Timings | None = None
    error: _Failure | None = None

    @property
    def text(self) -> str:
        return self.choices[0].said if self.choices else ""

    @property
    def finish(self) -> str | None:
        return self.choices[0].finish_reason if self.choices else None


class _ErrorBody(Struct, frozen=True):
    error: _Failure
    retry_after_s: float | None = None


def body(request: Request, *, stream: bool) -> dict[str, Any]:
    """The JSON of ``request``; what it leaves open is left out, so that the box's defaults hold."""
    asked: dict[str, Any] = {
        "id": request.id,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "ttl_s": request.ttl_s,
        "priority": None if request.priority == 5 else request.priority,
        **msgspec.to_builtins(request.sampling),
    }
    if request.op == "chat":
        asked["messages"] = msgspec.to_builtins(request.messages)
        if request.thinking is not None:
            asked["chat_template_kwargs"] = {"enable_thinking": request.thinking}
    else:
        asked["prompt"] = request.prompt
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return {name: value for name, value in asked.items() if value is not None}


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


def finished(request_id: str, text: str, finish: str, usage: _Usage | None, timings: Timings) -> Finished:
    counted = usage or _Usage()
    cached = counted.prompt_tokens_details or _Cached()
    return Finished(
        id=request_id,
        text=text,
        finish=_FINISHES.get(finish, "stop"),
        usage=Usage(
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            cached_tokens=cached.cached_tokens,
        ),
        timings=timings,
    )


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
