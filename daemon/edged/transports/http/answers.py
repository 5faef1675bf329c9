"""Events → answers of OpenAI's completions: one object, or the chunks of an event stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from edged.transports.http.errors import error_object
from edged.transports.http.forms import call_objects, chat_logprobs, text_logprobs

if TYPE_CHECKING:
    from edged.api.errors import EdgeError
    from edged.api.events import CallPiece, Delta, Finished, TokenLogprob, Usage
    from edged.transports.http.openai import Completion, Wanted

DONE = b"data: [DONE]\n\n"
COMMENT = b": waiting\n\n"


class Answer:
    """The answer to one request, whole or chunk by chunk; chunks share id and time of creation."""

    def __init__(self, dialect: Completion, wanted: Wanted, model: str) -> None:
        self.request = wanted.request
        self.stream = wanted.stream
        self._chat = dialect.op == "chat"
        self._dialect = dialect
        self._include_usage = wanted.include_usage
        self._chars = 0
        self._head = {"id": wanted.request.id, "created": int(time.time()), "model": model}

    def whole(self, event: Finished) -> dict[str, Any]:
        said = {"message": _message(event)} if self._chat else {"text": event.text}
        logprobs = None if event.logprobs is None else self._logprobs(event.logprobs)
        return {
            "object": self._dialect.answer_object,
            **self._head,
            "choices": [{"index": 0, **said, "logprobs": logprobs, "finish_reason": event.finish}],
            "usage": usage_object(event.usage),
            "timings": event.timings,
        }

    def opening(self) -> bytes:
        """The first chunk; it tells chat clients whose text follows."""
        return self._chunk({"role": "assistant", "content": ""}, "") if self._chat else b""

    def delta(self, event: Delta) -> bytes:
        said: dict[str, Any] = {}
        if event.text:
            said["reasoning_content" if event.channel == "reasoning" else "content"] = event.text
        if event.tool_calls:
            said["tool_calls"] = list(map(_call_piece, event.tool_calls))
        logprobs = self._logprobs(event.logprobs) if event.logprobs else None
        return self._chunk(said, event.text, logprobs=logprobs)

    def closing(self, event: Finished) -> bytes:
        """The last chunks of a good answer: reason, usage if wanted, end mark."""
        last = self._chunk({}, "", event)
        if not self._include_usage:
            return last + DONE
        usage = {"choices": [], "usage": usage_object(event.usage)}
        return last + _frame({"object": self._dialect.chunk_object, **self._head, **usage}) + DONE

    def silence(self) -> bytes:
        return COMMENT

    def failure(self, error: EdgeError) -> bytes:
        return _frame(error_object(error)) + DONE

    def _logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        if self._chat:
            return chat_logprobs(logprobs)
        told = text_logprobs(logprobs, self._chars)
        self._chars += sum(map(len, told["tokens"]))
        return told

    def _chunk(
        self,
        delta: dict[str, Any],
        text: str,
        last: Finished | None = None,
        *,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": text}
        finish = last.finish if last else None
        return _frame(
            {
                "object": self._dialect.chunk_object,
                **self._head,
                "choices": [{"index": 0, **content, "logprobs": logprobs, "finish_reason": finish}],
                **({"usage": None} if self._include_usage else {}),
                **({"timings": last.timings} if last else {}),
            }
        )


def _message(event: Finished) -> dict[str, Any]:
    """The turn of the assistant; clients send it again as it is."""
    message: dict[str, Any] = {"role": "assistant", "content": event.text}
    if event.reasoning:
        message["reasoning_content"] = event.reasoning
    if event.tool_calls:
        message |= {"content": event.text or None, "tool_calls": call_objects(event.tool_calls)}
    return message


def _call_piece(piece: CallPiece) -> dict[str, Any]:
    if not piece.id:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def usage_object(usage: Usage) -> dict[str, Any]:
    """``completion_tokens_details`` are there when the model thought."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if usage.reasoning_tokens is not UNSET:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return told


def _frame(content: dict[str, Any]) -> bytes:
    # JSON escapes line breaks, so one data line always suffices.
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
