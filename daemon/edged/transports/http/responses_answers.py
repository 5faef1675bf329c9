"""Events → OpenAI's responses: one object, or typed events that build it up item by item."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from edged.api.events import CallPiece, Delta
from edged.transports.http.forms import token_logprobs

if TYPE_CHECKING:
    from edged.api.errors import EdgeError
    from edged.api.events import Channel, Finished, TokenLogprob, Usage
    from edged.api.requests import Request

COMMENT = b": waiting\n\n"
# channel → the kind of its item, of its part, and the beginning of the names of its events
KINDS: dict[Channel, tuple[str, str, str]] = {
    "text": ("message", "output_text", "response.output_text"),
    "reasoning": ("reasoning", "reasoning_text", "response.reasoning_text"),
}
_Events: TypeAlias = list[tuple[str, dict[str, Any]]]  # type and fields of each
# why an answer was cut → what is said of it
INCOMPLETE = {"length": "max_output_tokens", "repetition": "repetition"}


class ResponseAnswer:
    """The answer to one request, whole or event by event."""

    def __init__(self, request: Request, echo: dict[str, Any], *, stream: bool) -> None:
        self.request = request
        self.stream = stream
        self._echo = echo
        self._created_at = int(time.time())
        self._output = _Output(request.id)
        self._told = 0  # events

    def whole(self, event: Finished) -> dict[str, Any]:
        """The response, from the items that its stream would have had."""
        parts = (
            Delta(id=event.id, seq=0, text=event.reasoning, channel="reasoning"),
            Delta(id=event.id, seq=1, text=event.text, logprobs=event.logprobs or ()),
        )
        for part in parts:
            self._output.add(part)
        calls = (
            CallPiece(index=index, id=call.id, name=call.name, arguments=call.arguments)
            for index, call in enumerate(event.tool_calls)
        )
        self._output.add(Delta(id=event.id, seq=2, tool_calls=tuple(calls)))
        self._output.finish(cut=event.finish in INCOMPLETE)
        return self._finished(event)

    def opening(self) -> bytes:
        response = self._response("in_progress")
        return self._events(
            [("response.created", {"response": response}), ("response.in_progress", {"response": response})]
        )

    def delta(self, event: Delta) -> bytes:
        return self._events(self._output.add(event))

    def silence(self) -> bytes:
        return COMMENT

    def closing(self, event: Finished) -> bytes:
        items = self._output.finish(cut=event.finish in INCOMPLETE)
        response = self._finished(event)
        return self._events([*items, (f"response.{response['status']}", {"response": response})])

    def failure(self, error: EdgeError) -> bytes:
        items = self._output.finish(cut=True)
        told = {"code": error.code, "message": error.message}
        response = self._response("failed", output=self._output.items, error=told)
        return self._events([*items, ("response.failed", {"response": response})])

    def _finished(self, event: Finished) -> dict[str, Any]:
        reason = INCOMPLETE.get(event.finish)
        return self._response(
            "incomplete" if reason else "completed",
            output=self._output.items,
            usage=_usage(event.usage),
            incomplete_details={"reason": reason} if reason else None,
            timings=event.timings,
        )

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": self.request.id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
            **self._echo,
            **fields,
        }

    def _events(self, events: _Events) -> bytes:
        """As an event stream: each with its type and its number."""
        lines = []
        for kind, fields in events:
            body = {"type": kind, "sequence_number": self._told, **fields}
            lines.append(b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(body)))
            self._told += 1
        return b"".join(lines)


class _Output:
    """Builds the items of a response up; what each step adds comes back as events, by type and fields."""

    def __init__(self, response_id: str) -> None:
        self.items: list[dict[str, Any]] = []  # those that are over
        self._response_id = response_id
        self._item: dict[str, Any] | None = None  # the one that grows
        self._channel: Channel | None = None  # of it; None is a call
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def add(self, event: Delta) -> _Events:
        found = []
        if event.text or event.logprobs:
            found += self._say(event.channel, event.text, event.logprobs)
        for piece in event.tool_calls:
            found += self._call(piece)
        return found

    def finish(self, *, cut: bool) -> _Events:
        """End the last item; an answer that says nothing is an empty message."""
        found = [] if self._item or self.items else self._begin_message("text")
        return found + self._end("incomplete" if cut else "completed")

    def _say(self, channel: Channel, text: str, logprobs: tuple[TokenLogprob, ...]) -> _Events:
        goes_on = self._item is not None and self._channel == channel
        found = [] if goes_on else [*self._end("completed"), *self._begin_message(channel)]
        self._pieces.append(text)
        told: dict[str, Any] = {"content_index": 0, "delta": text}
        if channel == "text":
            told["logprobs"] = token_logprobs(logprobs)
            self._logprobs += told["logprobs"]
        return [*found, self._about(f"{KINDS[channel][2]}.delta", told)]

    def _call(self, piece: CallPiece) -> _Events:
        found = []
        if piece.id:
            found += self._end("completed")
            item = {"type": "function_call", "call_id": piece.id, "name": piece.name, "arguments": ""}
            found += self._begin(None, {"id": f"fc_{piece.id}", **item})
        if piece.arguments:
            self._pieces.append(piece.arguments)
            told = {"delta": piece.arguments}
            found.append(self._about("response.function_call_arguments.delta", told))
        return found

    def _begin_message(self, channel: Channel) -> _Events:
        kind, _, _ = KINDS[channel]
        own: dict[str, Any] = {"role": "assistant"} if channel == "text" else {"summary": []}
        item = {"id": f"{kind}_{len(self.items)}_{self._response_id}", "type": kind, **own, "content": []}
        part = {"content_index": 0, "part": self._part(channel)}
        return [*self._begin(channel, item), self._about("response.content_part.added", part)]

    def _begin(self, channel: Channel | None, item: dict[str, Any]) -> _Events:
        self._item, self._channel = {**item, "status": "in_progress"}, channel
        self._pieces, self._logprobs = [], []
        return [("response.output_item.added", {"output_index": len(self.items), "item": dict(self._item)})]

    def _end(self, status: str) -> _Events:
        """Close the item that grows, if there is one."""
        if self._item is None:
            return []
        said = "".join(self._pieces)
        if self._channel is None:
            found = [self._about("response.function_call_arguments.done", self._arguments(said))]
            whole: dict[str, Any] = {"arguments": said}
        else:
            part = self._part(self._channel, said)
            text: dict[str, Any] = {"content_index": 0, "text": said}
            if self._channel == "text":
                text["logprobs"] = self._logprobs
            found = [
                self._about(f"{KINDS[self._channel][2]}.done", text),
                self._about("response.content_part.done", {"content_index": 0, "part": part}),
            ]
            whole = {"content": [part]}
        item = {**self._item, **whole, "status": status}
        found.append(("response.output_item.done", {"output_index": len(self.items), "item": item}))
        self.items.append(item)
        self._item = None
        return found

    def _arguments(self, said: str) -> dict[str, Any]:
        return {"name": self._item["name"] if self._item else "", "arguments": said}

    def _part(self, channel: Channel, text: str = "") -> dict[str, Any]:
        part: dict[str, Any] = {"type": KINDS[channel][1], "text": text}
        return {**part, "annotations": [], "logprobs": self._logprobs} if channel == "text" else part

    def _about(self, kind: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """An event of the item that grows."""
        item_id = self._item["id"] if self._item else ""
        return kind, {"item_id": item_id, "output_index": len(self.items), **fields}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
