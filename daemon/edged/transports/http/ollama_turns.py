"""Messages of a conversation as Ollama has them → messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Raw, Struct, field

from edged.api.errors import BadRequest
from edged.api.requests import Message, ToolCall
from edged.transports.http.forms import raw_text
from edged.transports.http.turns import no_vision

if TYPE_CHECKING:
    from collections.abc import Iterable


class OllamaCalled(Struct, frozen=True):
    name: str
    arguments: Raw = field(default_factory=Raw)  # an object


class OllamaCall(Struct, frozen=True):
    function: OllamaCalled
    id: str | None = None


class OllamaMessage(Struct, frozen=True):
    """One turn; those of an answer come back as we told them."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    name: str | None = None  # what older clients call tool_name
    tool_call_id: str | None = None


def messages_of(said: Iterable[OllamaMessage]) -> tuple[Message, ...]:
    """The conversation. Calls have no ids here: a result belongs to the first call without one of its name.

    Raises BadRequest or NoVision, naming the message.
    """
    messages: list[Message] = []
    waiting: list[ToolCall] = []
    for index, turn in enumerate(said):
        if turn.images:
            raise no_vision(f"messages[{index}].images")
        if turn.tool_calls and turn.role != "assistant":
            raise BadRequest(f"messages[{index}].tool_calls: belongs to messages with role assistant")
        calls = tuple(_call(index, number, call) for number, call in enumerate(turn.tool_calls or ()))
        waiting += calls
        messages.append(
            Message(
                role=turn.role,
                content=turn.content or "",
                reasoning=turn.thinking or "" if turn.role == "assistant" else "",
                tool_calls=calls,
                tool_call_id=_answered(turn, waiting) if turn.role == "tool" else "",
            )
        )
    return tuple(messages)


def _call(index: int, number: int, call: OllamaCall) -> ToolCall:
    arguments = raw_text(call.function.arguments) or "{}"
    if not arguments.startswith("{"):
        raise BadRequest(f"messages[{index}].tool_calls[{number}].function.arguments: must be an object")
    return ToolCall(id=call.id or f"call_{index}_{number}", name=call.function.name, arguments=arguments)


def _answered(turn: OllamaMessage, waiting: list[ToolCall]) -> str:
    """The id of the call whose result ``turn`` is; it waits no longer."""
    name = turn.tool_name or turn.name
    for call in waiting:
        if turn.tool_call_id == call.id or (not turn.tool_call_id and name in {None, call.name}):
            waiting.remove(call)
            return call.id
    return turn.tool_call_id or ""
