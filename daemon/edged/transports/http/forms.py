"""What programs ask of an answer in the OpenAI dialect: a format, tools, their calls; and back again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Raw, Struct, field

from edged.api.errors import BadRequest
from edged.api.requests import Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edged.api.events import TokenLogprob


class JsonSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """``schema`` is enforced, with ``strict`` or without."""

    schema: Raw = field(default_factory=Raw)
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: Raw = field(default_factory=Raw)
    strict: bool | None = None


class FunctionTool(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class FunctionName(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NamedTool(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionName


class CalledFunction(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class FunctionCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A call as it stands in an answer; clients send it back with the result."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None


def schema_of(wanted: ResponseFormat | None) -> str:
    """The text of the JSON schema that is asked for; empty when none is. Raises BadRequest."""
    if wanted is None or wanted.type != "json_schema":
        return ""
    text = "" if wanted.json_schema is None else raw_text(wanted.json_schema.schema)
    if not text:
        raise BadRequest("response_format.json_schema.schema: is missing")
    return text


def tools_of(wanted: Iterable[FunctionTool] | None) -> tuple[Tool, ...]:
    return tuple(
        Tool(
            name=tool.function.name,
            description=tool.function.description or "",
            parameters=raw_text(tool.function.parameters),
        )
        for tool in wanted or ()
    )


def tool_choice_of(wanted: str | NamedTool | None) -> str:
    if wanted is None:
        return "auto"
    return wanted if isinstance(wanted, str) else wanted.function.name


def calls_of(said: Iterable[FunctionCall] | None) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in said or ()
    )


def call_objects(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """As chats tell them."""
    return {"content": token_logprobs(logprobs), "refusal": None}


def token_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """A list of tokens, each with its alternatives."""
    return [
        {
            **_token(one.token, one.logprob),
            "top_logprobs": [_token(other.token, other.logprob) for other in one.top],
        }
        for one in logprobs
    ]


def text_logprobs(logprobs: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """As plain completions tell them: parallel lists. ``offset`` characters came before."""
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(_readable(one.token))
    return {
        "tokens": [_readable(one.token) for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [{_readable(other.token): other.logprob for other in one.top} for one in logprobs],
        "text_offset": offsets,
    }


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _readable(token), "logprob": logprob, "bytes": list(token)}


def _readable(token: bytes) -> str:
    return token.decode("utf-8", "replace")


def raw_text(raw: Raw) -> str:
    """JSON as it came; ``null`` is nothing."""
    text = bytes(raw).decode()
    return "" if text == "null" else text
