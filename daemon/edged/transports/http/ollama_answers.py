"""Events → Ollama's answers: one object, or a line of JSON for each piece."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edged.transports.http.errors import error_object
from edged.transports.http.forms import token_logprobs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edged.api.errors import EdgeError
    from edged.api.events import Delta, Finished
    from edged.api.requests import Request, ToolCall

# why an answer ended → Ollama's word for it, where it has one of its own
REASONS = {"tool_calls": "stop"}


class SaidFunction(Struct, frozen=True, kw_only=True):
    name: str
    arguments: dict[str, Any]


class SaidCall(Struct, frozen=True, kw_only=True):
    id: str
    function: SaidFunction


class SaidMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: Literal["assistant"]
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[SaidCall] | UnsetType = UNSET


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of an answer, or all of it; durations are in nanoseconds.

    A chat has ``message``, the others ``response`` and ``thinking``.
    """

    model: str
    created_at: str
    done: bool
    message: SaidMessage | UnsetType = UNSET
    response: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


def loaded(model: str, *, chat: bool) -> Line:
    """The answer to those who ask for nothing but the model, which is loaded in any case."""
    said = _said("", chat=chat)
    return Line(model=model, created_at=_now(), done=True, done_reason="load", **said)


def nanoseconds(ms: float) -> int:
    return round(ms * 1_000_000)


class LineAnswer:
    """The answer to one request, whole or line by line."""

    def __init__(self, request: Request, model: str, *, chat: bool, stream: bool) -> None:
        self.request = request
        self.stream = stream
        self._model = model
        self._chat = chat

    def whole(self, event: Finished) -> Line:
        calls = _calls(event.tool_calls)
        said = _said(event.text, thinking=event.reasoning, calls=calls, chat=self._chat)
        logprobs = UNSET if event.logprobs is None else token_logprobs(event.logprobs)
        return self._last(event, logprobs=logprobs, **said)

    def opening(self) -> bytes:
        return b""

    def delta(self, event: Delta) -> bytes:
        """Calls come whole, at the end."""
        if not event.text and not event.logprobs:
            return b""
        thought = event.channel == "reasoning"
        said = _said("" if thought else event.text, thinking=event.text if thought else "", chat=self._chat)
        logprobs = token_logprobs(event.logprobs) if event.logprobs else UNSET
        return _line(self._piece(logprobs=logprobs, **said))

    def silence(self) -> bytes:
        return _line(self._piece(**_said("", chat=self._chat)))

    def closing(self, event: Finished) -> bytes:
        nothing = _said("", chat=self._chat)
        last = _line(self._last(event, **nothing))
        if not (calls := _calls(event.tool_calls)):
            return last
        return _line(self._piece(**_said("", calls=calls, chat=self._chat))) + last

    def failure(self, error: EdgeError) -> bytes:
        return _line({"error": error_object(error)["error"]["message"]})

    def _piece(self, **fields: Any) -> Line:
        return Line(model=self._model, created_at=_now(), done=False, **fields)

    def _last(self, event: Finished, **fields: Any) -> Line:
        timings, usage = event.timings, event.usage
        return Line(
            model=self._model,
            created_at=_now(),
            done=True,
            done_reason=REASONS.get(event.finish, event.finish),
            total_duration=nanoseconds(timings.total_ms),
            load_duration=0,
            prompt_eval_count=usage.prompt_tokens,
            prompt_eval_duration=nanoseconds(timings.first_ms - timings.queue_ms),
            eval_count=usage.completion_tokens,
            eval_duration=nanoseconds(timings.total_ms - timings.first_ms),
            **fields,
        )


def _said(
    text: str, *, thinking: str = "", calls: list[SaidCall] | None = None, chat: bool
) -> dict[str, Any]:
    """What is said, in the fields of a line."""
    thought = thinking or UNSET
    if not chat:
        return {"response": text, "thinking": thought}
    message = SaidMessage(role="assistant", content=text, thinking=thought, tool_calls=calls or UNSET)
    return {"message": message}


def _calls(calls: Iterable[ToolCall]) -> list[SaidCall]:
    """Those that are whole: arguments are an object here, so a call that was cut cannot be told."""
    found = []
    for call in calls:
        with contextlib.suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(call.arguments, type=dict[str, Any])
            function = SaidFunction(name=call.name, arguments=arguments)
            found.append(SaidCall(id=call.id, function=function))
    return found


def _line(content: Any) -> bytes:
    return msgspec.json.encode(content) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
