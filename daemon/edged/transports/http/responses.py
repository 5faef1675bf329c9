"""OpenAI's responses: the body → Request. Nothing is stored, so every conversation comes whole."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Raw, Struct, field
from msgspec.structs import replace

from edged.api.errors import BadRequest
from edged.api.requests import Message, Request, Tool
from edged.transports.http.bodies import LABELS, Sampled, check_address, decode_body, model_id
from edged.transports.http.forms import FunctionName, raw_text
from edged.transports.http.openai import Effort, StreamOptions, thinking_of
from edged.transports.http.responses_answers import ResponseAnswer
from edged.transports.http.responses_items import Item, messages_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.transports.http.dialect import Asking

LOGPROBS = "message.output_text.logprobs"
_STORED = "answers are not stored here; send the conversation so far as items of input"


class TextFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """``schema`` is enforced, with ``strict`` or without."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: Raw = field(default_factory=Raw)
    strict: bool | None = None


class TextOptions(Struct, frozen=True, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Struct, frozen=True, forbid_unknown_fields=True):
    """Thoughts are told as they are; a ``summary`` of them changes nothing."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A function; nothing else can be called from here."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Raw = field(default_factory=Raw)
    strict: bool | None = None


class NamedFunction(FunctionName, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"] = "function"


class ResponsesBody(Sampled, frozen=True, kw_only=True):
    """What a client sends to have one response made."""

    labels = LABELS | {"max_tool_calls"}
    neutral = MappingProxyType({"truncation": (b'"disabled"',), "background": (b"false",)})
    refused = MappingProxyType(
        {
            "previous_response_id": _STORED,
            "conversation": _STORED,
            "prompt": "prompts are not stored here; template names a system message of the box",
            "max_tokens": "is called max_output_tokens here",
            "messages": "are called input here",
            "response_format": "is called text.format here",
        }
    )

    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: TextOptions | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    # Encrypted thoughts are asked for to send them back later; here they are told in the clear.
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    template: str | None = None  # ours, as in chats
    thinking_budget: int | None = None  # ours: tokens of thought
    choices: list[str] | None = None  # ours: the answer is one of them


class Responses:
    """``POST /v1/responses``."""

    body = ResponsesBody
    stream_type = b"text/event-stream; charset=utf-8"
    names: Mapping[str, str] = MappingProxyType(
        {
            "max_tokens": "max_output_tokens",
            "messages": "input",
            "schema": "text.format.schema",
            "json_mode": "text.format",
            "thinking": "reasoning.effort",
            "logprobs": "top_logprobs",
        }
    )

    def read(self, raw: bytes, asking: Asking) -> ResponseAnswer:
        """Raises BadRequest, NoVision and ModelNotFound."""
        body = decode_body(raw, ResponsesBody)
        check_address(body, asking.model)
        request = _request(body, asking)
        return ResponseAnswer(request, _echo(body, model_id(asking.model)), stream=bool(body.stream))


def _request(body: ResponsesBody, asking: Asking) -> Request:
    form = _format(body)
    effort = None if body.reasoning is None else body.reasoning.effort
    choice = body.tool_choice
    return Request(
        id=body.id or asking.request_id,
        client=asking.client,
        op="chat",
        messages=_messages(body),
        max_tokens=body.max_output_tokens,
        schema=_schema(form),
        json_mode=form.type == "json_object",
        choices=tuple(body.choices or ()),
        thinking=thinking_of(effort),
        thinking_budget=body.thinking_budget,
        template=body.template or "",
        tools=tuple(
            Tool(name=tool.name, description=tool.description or "", parameters=raw_text(tool.parameters))
            for tool in body.tools or ()
        ),
        tool_choice=choice.name if isinstance(choice, NamedFunction) else choice or "auto",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        logprobs=_logprobs(body),
        **body.drawn(),
        **body.terms(),
    )


def _messages(body: ResponsesBody) -> tuple[Message, ...]:
    """The conversation with the instructions before it; templates know one system message, at the front."""
    said = messages_of([Item(role="user", content=body.input)] if isinstance(body.input, str) else body.input)
    if not body.instructions:
        return said
    if said and said[0].role == "system":
        return (replace(said[0], content=f"{body.instructions}\n\n{said[0].content}"), *said[1:])
    return (Message(role="system", content=body.instructions), *said)


def _format(body: ResponsesBody) -> TextFormat:
    return (body.text and body.text.format) or TextFormat(type="text")


def _schema(form: TextFormat) -> str:
    if form.type != "json_schema":
        return ""
    if not (text := raw_text(form.schema)):
        raise BadRequest("text.format.schema: is missing")
    return text


def _logprobs(body: ResponsesBody) -> int | None:
    """How many alternatives are told; both ways of asking are enough."""
    if body.top_logprobs is None:
        return 0 if LOGPROBS in (body.include or ()) else None
    return body.top_logprobs


def _echo(body: ResponsesBody, model: str) -> dict[str, Any]:
    """What a response says of the request."""
    form = _format(body)
    choice = body.tool_choice
    return {
        "model": model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_logprobs": body.top_logprobs,
        "text": {"format": _clean(form)},
        "tools": [_clean(tool) for tool in body.tools or ()],
        "tool_choice": choice or "auto",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
    }


def _clean(said: TextFormat | ResponseTool) -> dict[str, Any]:
    """The fields that were given."""
    found = {name: getattr(said, name) for name in said.__struct_fields__}
    return {
        name: value
        for name, value in found.items()
        if value is not None and not (isinstance(value, Raw) and not raw_text(value))
    }
