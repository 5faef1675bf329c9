"""What a client may ask for, and the rules every request must meet whatever carried it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

from msgspec import Struct

from edged.api.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

Op = Literal["chat", "generate", "classify", "embed"]
Role = Literal["system", "user", "assistant", "tool"]
ToolChoice = Literal["auto", "none", "required"]
ScoringRule = Literal["constrained", "sum", "mean"]

ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,64}")  # fits a topic segment, a log line and a file name
TOOL_NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_STOP_STRINGS = 8
MAX_STOP_CHARS = 128  # text is held back while it may still become a stop string
MAX_MESSAGES = 256
MAX_CHOICES = 64
MAX_CHOICE_CHARS = 256
MAX_SCHEMA_BYTES = 32768
MAX_TOOLS = 64
MAX_LOGPROBS = 20  # alternatives a token; as in the OpenAI dialect
MAX_INPUTS = 64
MAX_TTL_S = 7 * 86400.0


class ToolCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function the model wants called; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str = "{}"


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function the model may call; ``parameters`` is the text of a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: str = ""


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a conversation.

    ``reasoning`` and ``tool_calls`` are an assistant's; a ``tool`` message holds the result of the call
    ``tool_call_id``.
    """

    role: Role
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are drawn. ``None`` means the model's own preset; temperature 0 is greedy."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None


class Limits(Struct, frozen=True, kw_only=True):
    """What this box takes: bytes of prompt text, tokens of answer, seconds of waiting."""

    max_prompt_bytes: int
    max_tokens: int
    default_max_tokens: int
    default_ttl_s: float


class Question(Struct, frozen=True, kw_only=True):
    """What a model is asked, and how it is to answer.

    ``chat`` has ``messages``, ``generate`` has ``prompt`` (given to the model as it is), ``classify``
    has either and ``choices``, ``embed`` has ``inputs``.
    At most one of ``choices``, ``schema`` (the text of a JSON schema) and ``json_mode`` says what the
    answer must look like. ``scoring`` says what the probabilities of choices are made of: the tokens in
    which they differ, as generation that is held to them would decide, or the log-probabilities of all their
    tokens, the sum or the mean. ``tool_choice`` is a ToolChoice or the name of the one tool to call.
    ``thinking_budget`` tokens end the thought; ``logprobs`` is how many alternatives are told beside
    each token, from 0. ``priority`` 0 (background) … 9 (urgent). ``ttl_s`` counts from acceptance.
    """

    op: Op = "chat"
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    thinking_budget: int | None = None
    choices: tuple[str, ...] = ()
    scoring: ScoringRule = "constrained"
    schema: str = ""
    json_mode: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    logprobs: int | None = None
    inputs: tuple[str, ...] = ()
    ttl_s: float | None = None
    priority: int = 5


class Request(Question, frozen=True, kw_only=True):
    """One question of one client. ``id`` is unique per client; a repeated id is a duplicate.

    ``template`` names a prompt of the configuration. None is left to the box.
    """

    id: str
    client: str
    max_tokens: int | None = None
    thinking: bool | None = None
    template: str = ""


# field of Sampling → (lowest, highest, text of the rule)
SAMPLING_RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, 5.0, "between 0 and 5"),
    "top_p": (0.0, 1.0, "between 0 and 1"),
    "min_p": (0.0, 1.0, "between 0 and 1"),
    "top_k": (0, 100_000, "between 0 and 100000"),
    "presence_penalty": (-2.0, 2.0, "between -2 and 2"),
    "frequency_penalty": (-2.0, 2.0, "between -2 and 2"),
    "repeat_penalty": (0.1, 3.0, "between 0.1 and 3"),
    "seed": (0, 2**32 - 1, "between 0 and 4294967295"),
}


def check(request: Request, limits: Limits) -> None:
    """Raise BadRequest or TooLarge, naming the field, unless ``request`` keeps every rule."""
    for name, value in (("id", request.id), ("client", request.client)):
        if not ID_PATTERN.fullmatch(value):
            raise BadRequest(f"{name}: 1 to 64 characters of A-Z a-z 0-9 . _ : - are allowed")
    _check_text(request, limits)
    _check_numbers(request, limits)
    _check_form(request)
    _check_tools(request)
    if len(request.stop) > MAX_STOP_STRINGS:
        raise BadRequest(f"stop: at most {MAX_STOP_STRINGS} strings are allowed")
    if any(not text or len(text) > MAX_STOP_CHARS for text in request.stop):
        raise BadRequest(f"stop: each string must have 1 to {MAX_STOP_CHARS} characters")
    if any(not _is_text(text) for text in request.stop):
        raise BadRequest("stop: lone surrogates are not valid text")


def in_range(sampling: Sampling, name: str) -> bool:
    """Whether the field ``name`` is unset or keeps its rule; NaN keeps none."""
    low, high, _ = SAMPLING_RANGES[name]
    value = getattr(sampling, name)
    return value is None or low <= value <= high


def texts(request: Request) -> Iterator[str]:
    """Every text of ``request`` that can become part of the prompt."""
    for message in request.messages:
        yield message.content
        yield message.reasoning
        yield message.tool_call_id
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    for tool in request.tools:
        yield from (tool.name, tool.description, tool.parameters)
    yield request.prompt
    yield from request.choices
    yield from request.inputs


def _check_text(request: Request, limits: Limits) -> None:
    if request.op == "embed":
        if not 1 <= len(request.inputs) <= MAX_INPUTS or not all(request.inputs):
            raise BadRequest(f"inputs: 1 to {MAX_INPUTS} texts are needed, none of them empty")
    elif request.op == "chat" or request.messages:
        if not request.messages:
            raise BadRequest("messages: at least one message is needed")
        if len(request.messages) > MAX_MESSAGES:
            raise TooLarge(f"messages: at most {MAX_MESSAGES} messages are allowed")
        if all(message.role != "user" for message in request.messages):
            raise BadRequest("messages: at least one message with role 'user' is needed")
    elif not request.prompt:
        raise BadRequest("prompt: must not be empty")
    try:
        prompt_bytes = sum(len(text.encode()) for text in texts(request))
    except UnicodeEncodeError:
        raise BadRequest("the prompt contains lone surrogates, which are not valid text") from None
    if prompt_bytes > limits.max_prompt_bytes:
        raise TooLarge(f"the prompt has {prompt_bytes} bytes; this box takes {limits.max_prompt_bytes}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_numbers(request: Request, limits: Limits) -> None:
    for name, (_, _, rule) in SAMPLING_RANGES.items():
        if not in_range(request.sampling, name):
            raise BadRequest(f"{name}: must be {rule}")
    if request.max_tokens is not None and not 1 <= request.max_tokens <= limits.max_tokens:
        raise BadRequest(f"max_tokens: must be between 1 and {limits.max_tokens}")
    if request.ttl_s is not None and not 0 < request.ttl_s <= MAX_TTL_S:
        raise BadRequest(f"ttl_s: must be above 0 and at most {MAX_TTL_S:.0f}")
    if request.thinking_budget is not None and not 0 <= request.thinking_budget <= limits.max_tokens:
        raise BadRequest(f"thinking_budget: must be between 0 and {limits.max_tokens}")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise BadRequest(f"logprobs: must be between 0 and {MAX_LOGPROBS}")
    if not 0 <= request.priority <= 9:
        raise BadRequest("priority: must be between 0 and 9")


def _check_form(request: Request) -> None:
    """What the answer must look like: choices, a schema, or any JSON object."""
    choices = request.choices
    if request.op == "classify" and len(choices) < 2:
        raise BadRequest("choices: at least two are needed")
    if len(choices) > MAX_CHOICES:
        raise BadRequest(f"choices: at most {MAX_CHOICES} are allowed")
    if any(not text or len(text) > MAX_CHOICE_CHARS for text in choices):
        raise BadRequest(f"choices: each must have 1 to {MAX_CHOICE_CHARS} characters")
    if len(set(choices)) < len(choices):
        raise BadRequest("choices: each may be named once only")
    if request.op == "classify" and request.thinking:
        raise BadRequest("thinking: choices are scored without a thought")
    if bool(choices) + bool(request.schema) + request.json_mode > 1:
        raise BadRequest("choices, schema, json_mode: give one of them at most")
    if not _is_text(request.schema):
        raise BadRequest("schema: lone surrogates are not valid text")
    if len(request.schema.encode()) > MAX_SCHEMA_BYTES:
        raise TooLarge(f"schema: at most {MAX_SCHEMA_BYTES} bytes are allowed")


def _check_tools(request: Request) -> None:
    names = [tool.name for tool in request.tools]
    if names and request.op != "chat":
        raise BadRequest("tools: belong to chat")
    if len(names) > MAX_TOOLS:
        raise BadRequest(f"tools: at most {MAX_TOOLS} are allowed")
    for name in names:
        if not TOOL_NAME_PATTERN.fullmatch(name) or name in get_args(ToolChoice):
            raise BadRequest("tools: a name has 1 to 64 characters of A-Z a-z 0-9 _ . -")
    if len(set(names)) < len(names):
        raise BadRequest("tools: each name may be used once only")
    choice = request.tool_choice
    if choice not in get_args(ToolChoice) and choice not in names:
        raise BadRequest("tool_choice: must be auto, none, required or the name of one of the tools")
    if choice == "required" and not names:
        raise BadRequest("tool_choice: nothing can be required without tools")
