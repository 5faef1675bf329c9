"""Events → answers of the OpenAI dialect: one object, or the chunks of an event stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from edged.transports.http.errors import error_object

if TYPE_CHECKING:
    from edged.api.errors import EdgeError
    from edged.api.events import Finished, Timings, Usage
    from edged.transports.http.openai import Dialect, Wanted

DONE = b"data: [DONE]\n\n"
COMMENT = b": waiting\n\n"  # keeps proxies from cutting the stream


class Answer:
    """The answer to one request, whole or chunk by chunk; chunks share id and time of creation."""

    def __init__(self, dialect: Dialect, wanted: Wanted, model: str) -> None:
        self._chat = dialect.op == "chat"
        self._dialect = dialect
        self._include_usage = wanted.include_usage
        self._head = {"id": wanted.request.id, "created": int(time.time()), "model": model}

    def whole(self, event: Finished) -> dict[str, Any]:
        text = (
            {"message": {"role": "assistant", "content": event.text}} if self._chat else {"text": event.text}
        )
        return {
            "object": self._dialect.answer_object,
            **self._head,
            "choices": [{"index": 0, **text, "logprobs": None, "finish_reason": event.finish}],
            "usage": usage_object(event.usage),
            "timings": event.timings,
        }

    def opening(self) -> bytes:
        """The first chunk; it tells chat clients whose text follows."""
        return self._chunk({"role": "assistant", "content": ""}, "") if self._chat else b""

    def delta(self, text: str) -> bytes:
        return self._chunk({"content": text}, text)

    def closing(self, event: Finished) -> bytes:
        """The last chunks of a good answer: reason, usage if wanted, end mark."""
        last = self._chunk({}, "", event.finish, event.timings)
        if not self._include_usage:
            return last + DONE
        usage = {"choices": [], "usage": usage_object(event.usage)}
        return last + _frame({"object": self._dialect.chunk_object, **self._head, **usage}) + DONE

    def _chunk(
        self, delta: dict[str, str], text: str, finish: str | None = None, timings: Timings | None = None
    ) -> bytes:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": text}
        return _frame(
            {
                "object": self._dialect.chunk_object,
                **self._head,
                "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": finish}],
                **({"usage": None} if self._include_usage else {}),
                **({"timings": timings} if timings else {}),
            }
        )


def failure(error: EdgeError) -> bytes:
    """The last chunks of a stream that failed after it began."""
    return _frame(error_object(error)) + DONE


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _frame(content: dict[str, Any]) -> bytes:
    # JSON escapes line breaks, so one data line always suffices.
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
