"""Request bodies of the OpenAI dialect → Request; every refusal names the field."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from edged.api.errors import BadRequest
from edged.api.requests import ID_PATTERN, Message, Op, Request, Role, Sampling
from edged.transports.http.errors import ModelNotFound
from edged.transports.http.forms import (
    FunctionCall,
    FunctionTool,
    NamedTool,
    ResponseFormat,
    calls_of,
    schema_of,
    tool_choice_of,
    tools_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.api.status import ModelInfo

# Labels that clients attach by default and that change no answer: any value is accepted and forgotten.
LABELS = frozenset({"user", "store", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"})
# Features this server does not have, with the values that mean "not wanted". `null` always means that.
NEUTRAL: Mapping[str, tuple[bytes, ...]] = {
    "n": (b"1",),
    "best_of": (b"1",),
    "echo": (b"false",),
    "suffix": (b'""',),
    "logit_bias": (b"{}",),
    "functions": (b"[]",),
    "modalities": (b'["text"]',),
}

_Kind = TypeVar("_Kind", bound=Struct)
_Nothing: TypeAlias = Annotated[list[Any], Meta(max_length=0)] | None
_CHAT_ONLY = ("tools", "tool_choice", "parallel_tool_calls")


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


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers of token lengths: not done


class TemplateOptions(Struct, frozen=True, forbid_unknown_fields=True):
    enable_thinking: bool | None = None


class Addressed(Struct, frozen=True, kw_only=True):
    """What every request says of itself; ``id``, ``priority`` and ``ttl_s`` are ours."""

    model: str | None = None
    id: str | None = None
    priority: int | None = None
    ttl_s: float | None = None

    def terms(self) -> dict[str, Any]:
        """Fields of the request: when it is wanted."""
        return {"ttl_s": self.ttl_s, "priority": 5 if self.priority is None else self.priority}


class Body(Addressed, frozen=True, kw_only=True):
    """What chats and plain completions share."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    choices: list[str] | None = None  # ours: the answer is one of them


class ChatBody(Body, frozen=True, kw_only=True):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    template: str | None = None  # ours: the box puts its system message of this name before the messages
    chat_template_kwargs: TemplateOptions | None = None
    thinking_budget: int | None = None  # ours: tokens of thought
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    def asked(self) -> dict[str, Any]:
        """Fields of the request that only chats have."""
        options = self.chat_template_kwargs or TemplateOptions()
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs: needs logprobs to be true")
        return {
            "messages": tuple(message(index, item) for index, item in enumerate(self.messages)),
            "thinking": options.enable_thinking,
            "thinking_budget": self.thinking_budget,
            "template": self.template or "",
            "tools": tools_of(self.tools),
            "tool_choice": tool_choice_of(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }


class TextBody(Body, frozen=True, kw_only=True):
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


class Dialect(Struct, frozen=True):
    """One of the two endpoints: its operation, its body and the names in its answers."""

    op: Op
    body: type[ChatBody | TextBody]
    answer_object: str
    chunk_object: str


CHAT = Dialect("chat", ChatBody, "chat.completion", "chat.completion.chunk")
TEXT = Dialect("generate", TextBody, "text_completion", "text_completion")


def model_id(model: ModelInfo) -> str:
    """The name under which the model is served: ``name-quant``."""
    return f"{model.name}-{model.quant}" if model.quant else model.name


def serves(model: ModelInfo, name: str) -> bool:
    """Whether a client that asks for ``name`` means the loaded model."""
    return name.lower() in {"default", model.name.lower(), model_id(model).lower()}


def parse(raw: bytes, dialect: Dialect, *, model: ModelInfo, request_id: str, client: str) -> Wanted:
    """The request in ``raw``. Raises BadRequest naming the field, or ModelNotFound.

    Ranges are the service's to check: they are the same for every transport.
    """
    body: ChatBody | TextBody = decode_body(raw, dialect.body)
    check_address(body, model)
    form = body.response_format
    request = Request(
        id=body.id or request_id,
        client=client,
        op=dialect.op,
        max_tokens=_max_tokens(body),
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        sampling=Sampling(**{name: getattr(body, name) for name in Sampling.__struct_fields__}),
        schema=schema_of(form),
        json_mode=form is not None and form.type == "json_object",
        choices=tuple(body.choices or ()),
        **body.asked(),
        **body.terms(),
    )
    options = body.stream_options or StreamOptions()
    return Wanted(request=request, stream=bool(body.stream), include_usage=options.include_usage)


def check_address(body: Addressed, model: ModelInfo) -> None:
    """Raises BadRequest for an id that cannot be one, and ModelNotFound."""
    if body.model is not None and not serves(model, body.model):
        raise ModelNotFound(
            f"model: {body.model[:80]!r} is not served here", hint=f"this is {model_id(model)}"
        )
    if body.id is not None and not ID_PATTERN.fullmatch(body.id):
        raise BadRequest("id: 1 to 64 characters of A-Z a-z 0-9 . _ : - are allowed")


def decode_body(raw: bytes, kind: type[_Kind]) -> _Kind:
    """The JSON object in ``raw``; raises BadRequest, naming the field."""
    if not raw.strip():
        raise BadRequest("the body is empty; a JSON object is needed")
    try:
        raw.decode()  # msgspec looks only at the strings it keeps
        fields = msgspec.json.decode(raw, type=dict[str, Raw])
        _refuse_unknown(fields, kind.__struct_fields__)
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise BadRequest(_in_our_words(str(error))) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {str(error).removeprefix('JSON is malformed: ')}") from None


def _refuse_unknown(fields: dict[str, Raw], known: tuple[str, ...]) -> None:
    for name, value in fields.items():
        if name in known or name in LABELS:
            continue
        if name in _CHAT_ONLY:
            raise BadRequest(f"{name}: belongs to /v1/chat/completions")
        text = bytes(value).translate(None, b" \t\r\n")
        if text == b"null" or text in NEUTRAL.get(name, ()):
            continue
        if name in NEUTRAL:
            allowed = " or ".join(text.decode() for text in NEUTRAL[name])
            raise BadRequest(f"{name}: is not supported here; leave it out (or send {allowed})")
        close = difflib.get_close_matches(name[:64], known, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise BadRequest(f"{_printable(name)}: there is no such field{guess}")


def _printable(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) else ascii(name[:64])


def _in_our_words(problem: str) -> str:
    """``Expected `int`, got `str` - at `$.stop[0]` `` → ``stop[0]: expected `int`, got `str` ``."""
    text, _, place = problem.partition(" - at `$")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        text, name = "is missing", missing[1]
        place = f"{place}.{name}"
    field = re.sub(r"\[\.\.\.\]", "", place.strip("`.")).replace("`", "").lstrip(".")
    return f"{field}: {text[0].lower()}{text[1:]}" if field else f"the body: {text[0].lower()}{text[1:]}"


def message(index: int, said: ChatMessage) -> Message:
    """One turn in our vocabulary; raises BadRequest."""
    role: Role = "system" if said.role == "developer" else said.role
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
        role=role,
        content=_text(index, said.content),
        reasoning=said.reasoning_content or "" if said.role == "assistant" else "",
        tool_calls=calls_of(said.tool_calls),
        tool_call_id=said.tool_call_id or "",
    )


def _text(index: int, content: str | list[Part] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise BadRequest(
                f"messages[{index}].content: parts of type {_printable(part.type)} are not supported; "
                "this model reads text parts only"
            )
    return "".join(part.text or "" for part in content)


def _prompt(prompt: str | list[str]) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) != 1:
        raise BadRequest(f"prompt: a list must hold exactly one string, not {len(prompt)}")
    return prompt[0]


def _max_tokens(body: Body) -> int | None:
    newer = body.max_completion_tokens if isinstance(body, ChatBody) else None
    if newer is not None and body.max_tokens is not None and newer != body.max_tokens:
        raise BadRequest("max_tokens: differs from max_completion_tokens; send one of them")
    return newer if newer is not None else body.max_tokens
