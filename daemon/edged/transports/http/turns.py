"""Messages of a conversation as OpenAI's chats have them, and parts that are not text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from edged.api.errors import BadRequest
from edged.api.requests import Message, Role
from edged.transports.http.bodies import printable
from edged.transports.http.errors import NoVision
from edged.transports.http.forms import FunctionCall, calls_of

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT_PARTS = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})
IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})

_Nothing: TypeAlias = Annotated[list[Any], Meta(max_length=0)] | None


class Part(Struct, frozen=True):
    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn; those of an answer come back as we told them when clients send it again."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None  # of the tool whose result it is
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[FunctionCall] | None = None
    tool_call_id: str | None = None
    annotations: _Nothing = None
    reasoning_content: str | None = None


def message(index: int, said: ChatMessage) -> Message:
    """One turn in our vocabulary; raises BadRequest or NoVision."""
    if said.content is None and said.role != "assistant":
        raise BadRequest(f"messages[{index}].content: is missing")
    for field, value, owner in (
        ("name", said.name, "tool"),
        ("tool_call_id", said.tool_call_id, "tool"),
        ("tool_calls", said.tool_calls or None, "assistant"),
    ):
        if value is not None and said.role != owner:
            raise BadRequest(f"messages[{index}].{field}: belongs to messages with role {owner}")
    return Message(
        role=role_of(said.role),
        content=text_of(f"messages[{index}].content", said.content),
        reasoning=said.reasoning_content or "" if said.role == "assistant" else "",
        tool_calls=calls_of(said.tool_calls),
        tool_call_id=said.tool_call_id or "",
    )


def role_of(name: Literal["system", "developer", "user", "assistant", "tool"]) -> Role:
    return "system" if name == "developer" else name


def text_of(field: str, content: str | Sequence[Part] | None) -> str:
    """The text of a message; raises BadRequest or NoVision for parts that are none."""
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type in IMAGE_PARTS:
            raise no_vision(field)
        if part.type not in TEXT_PARTS or part.text is None:
            raise BadRequest(
                f"{field}: parts of type {printable(part.type)} are not supported; "
                "this model reads text parts only"
            )
    return "".join(part.text or "" for part in content)


def no_vision(field: str) -> NoVision:
    """What is said to pictures, in every dialect."""
    return NoVision(
        f"{field}: this box reads text and cannot see pictures: its engine loads no image projector, "
        "whichever model is served",
        hint="leave the picture out, or say in words what it shows",
    )
