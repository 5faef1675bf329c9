"""Items of the input of OpenAI's responses → messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from edged.api.errors import BadRequest
from edged.api.requests import Message, ToolCall
from edged.transports.http.turns import Part, role_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable

THOUGHT, WORDS, CALLS = range(3)  # how far a turn of the assistant has come


class Item(Struct, frozen=True):
    """A message, what a model said of one kind, or the result of a call.

    Items of an answer come back as we told them; what they say of themselves besides (their id, how far
    they came) changes nothing.
    """

    type: Literal["message", "reasoning", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


def messages_of(items: Iterable[Item]) -> tuple[Message, ...]:
    """The conversation. What the assistant thought, said and called in a row is one turn.

    Raises BadRequest or NoVision, naming the item.
    """
    turns: list[Message] = []
    for index, item in enumerate(items):
        said = _message(f"input[{index}]", item)
        if turns and _goes_on(turns[-1], said):
            said = _joined(turns.pop(), said)
        turns.append(said)
    return tuple(turns)


def _message(place: str, item: Item) -> Message:
    if item.type == "reasoning":
        thought = text_of(f"{place}.content", item.content) or text_of(f"{place}.summary", item.summary)
        return Message(role="assistant", content="", reasoning=thought)
    if item.type == "function_call":
        call = ToolCall(
            id=_given(f"{place}.call_id", item.call_id),
            name=_given(f"{place}.name", item.name),
            arguments=_given(f"{place}.arguments", item.arguments),
        )
        return Message(role="assistant", content="", tool_calls=(call,))
    if item.type == "function_call_output":
        if item.output is None:
            raise BadRequest(f"{place}.output: is missing")
        result = text_of(f"{place}.output", item.output)
        return Message(role="tool", content=result, tool_call_id=_given(f"{place}.call_id", item.call_id))
    if item.role is None:
        raise BadRequest(f"{place}.role: is missing")
    if item.content is None:
        raise BadRequest(f"{place}.content: is missing")
    return Message(role=role_of(item.role), content=text_of(f"{place}.content", item.content))


def _given(place: str, value: str | None) -> str:
    if value is None:
        raise BadRequest(f"{place}: is missing")
    return value


def _goes_on(turn: Message, said: Message) -> bool:
    """Whether ``said`` belongs to the turn before it: thoughts, then one message, then calls."""
    if turn.role != "assistant" or said.role != "assistant":
        return False
    return _stage(turn) < _stage(said) or _stage(turn) == _stage(said) != WORDS


def _stage(turn: Message) -> int:
    return CALLS if turn.tool_calls else WORDS if turn.content else THOUGHT


def _joined(turn: Message, said: Message) -> Message:
    return replace(
        turn,
        content=turn.content + said.content,
        reasoning=turn.reasoning + said.reasoning,
        tool_calls=turn.tool_calls + said.tool_calls,
    )
