"""OpenAI's chat and plain completions: their bodies → Request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from edged.api.errors import BadRequest
from edged.api.requests import Op, Request
from edged.transports.http import answers
from edged.transports.http.bodies import Sampled, check_address, decode_body, model_id
from edged.transports.http.forms import (
    FunctionTool,
    NamedTool,
    ResponseFormat,
    schema_of,
    tool_choice_of,
    tools_of,
)
from edged.transports.http.turns import ChatMessage, message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.api.status import ModelInfo
    from edged.transports.http.dialect import Asking

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers of token lengths: not done


class TemplateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    enable_thinking: bool | None = None


class CompletionBody(Sampled, frozen=True, kw_only=True):
    """What chats and plain completions share."""

    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    choices: list[str] | None = None  # ours: the answer is one of them


class ChatBody(CompletionBody, frozen=True, kw_only=True):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    template: str | None = None  # ours: the box puts its system message of this name before the messages
    chat_template_kwargs: TemplateOptions | None = None
    reasoning_effort: Effort | None = None
    thinking_budget: int | None = None  # ours: tokens of thought
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    def asked(self) -> dict[str, Any]:
        """Fields of the request that only chats have."""
        options = self.chat_template_kwargs or TemplateOptions()
        thinking = options.enable_thinking
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs: needs logprobs to be true")
        return {
            "messages": tuple(message(index, item) for index, item in enumerate(self.messages)),
            "thinking": thinking_of(self.reasoning_effort) if thinking is None else thinking,
            "thinking_budget": self.thinking_budget,
            "template": self.template or "",
            "tools": tools_of(self.tools),
            "tool_choice": tool_choice_of(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }


class TextBody(CompletionBody, frozen=True, kw_only=True):
    """``logprobs`` is how many alternatives are told beside each token."""

    prompt: str | list[str]
    logprobs: int | bool | None = None

    def asked(self) -> dict[str, Any]:
        """Fields of the request that only plain completions have."""
        wanted = None if isinstance(self.logprobs, bool) and not self.logprobs else self.logprobs
        return {"prompt": _prompt(self.prompt), "logprobs": wanted if wanted is None else int(wanted)}


class Wanted(Struct, frozen=True, kw_only=True):
    """A request, and how its answer is to be delivered."""

    request: Request
    stream: bool
    include_usage: bool


class Completion(Struct, frozen=True):
    """One of the two endpoints: its operation, its body and the names in its answers."""

    op: Op
    body: type[ChatBody | TextBody]
    answer_object: str
    chunk_object: str

    @property
    def stream_type(self) -> bytes:
        return b"text/event-stream; charset=utf-8"

    @property
    def names(self) -> Mapping[str, str]:
        return {
            "schema": "response_format.json_schema.schema",
            "json_mode": "response_format",
            "thinking": "chat_template_kwargs.enable_thinking",
        }

    def read(self, raw: bytes, asking: Asking) -> answers.Answer:
        """Raises BadRequest, NoVision and ModelNotFound."""
        model = asking.model
        wanted = parse(raw, self, model=model, request_id=asking.request_id, client=asking.client)
        return answers.Answer(self, wanted, model_id(model))


CHAT = Completion("chat", ChatBody, "chat.completion", "chat.completion.chunk")
TEXT = Completion("generate", TextBody, "text_completion", "text_completion")


def parse(raw: bytes, kind: Completion, *, model: ModelInfo, request_id: str, client: str) -> Wanted:
    """The request in ``raw``. Raises BadRequest naming the field, or ModelNotFound.

    Ranges are the service's to check: they are the same for every transport.
    """
    body: ChatBody | TextBody = decode_body(raw, kind.body)
    check_address(body, model)
    form = body.response_format
    request = Request(
        id=body.id or request_id,
        client=client,
        op=kind.op,
        max_tokens=_max_tokens(body),
        schema=schema_of(form),
        json_mode=form is not None and form.type == "json_object",
        choices=tuple(body.choices or ()),
        **body.asked(),
        **body.drawn(),
        **body.terms(),
    )
    options = body.stream_options or StreamOptions()
    return Wanted(request=request, stream=bool(body.stream), include_usage=options.include_usage)


def thinking_of(effort: Effort | None) -> bool | None:
    """Whether the model thinks first; None leaves that to the box. A model here has no degrees of it."""
    return None if effort is None else effort not in {"none", "minimal"}


def _prompt(prompt: str | list[str]) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) != 1:
        raise BadRequest(f"prompt: a list must hold exactly one string, not {len(prompt)}")
    return prompt[0]


def _max_tokens(body: ChatBody | TextBody) -> int | None:
    newer = body.max_completion_tokens if isinstance(body, ChatBody) else None
    if newer is not None and body.max_tokens is not None and newer != body.max_tokens:
        raise BadRequest("max_tokens: differs from max_completion_tokens; send one of them")
    return newer if newer is not None else body.max_tokens
