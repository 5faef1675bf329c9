"""What a client may ask for, and the rules every request must meet whatever carried it."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from edged.api.errors import BadRequest, TooLarge

Op = Literal["chat", "generate"]
Role = Literal["system", "user", "assistant"]

ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,64}")  # fits a topic segment, a log line and a file name
MAX_STOP_STRINGS = 8
MAX_STOP_CHARS = 128  # text is held back while it may still become a stop string
MAX_MESSAGES = 256
MAX_TTL_S = 7 * 86400.0


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role
    content: str


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


class Request(Struct, frozen=True, kw_only=True):
    """One prompt of one client. ``id`` is unique per client; a repeated id is a duplicate.

    ``chat`` has ``messages``, ``generate`` has ``prompt`` (given to the model as it is).
    ``priority`` 0 (background) … 9 (urgent). ``ttl_s`` counts from acceptance.
    """

    id: str
    client: str
    op: Op
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    thinking: bool | None = None
    ttl_s: float | None = None
    priority: int = 5


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


def _check_text(request: Request, limits: Limits) -> None:
    if request.op == "chat":
        if not request.messages:
            raise BadRequest("messages: at least one message is needed")
        if len(request.messages) > MAX_MESSAGES:
            raise TooLarge(f"messages: at most {MAX_MESSAGES} messages are allowed")
        if all(message.role != "user" for message in request.messages):
            raise BadRequest("messages: at least one message with role 'user' is needed")
    elif not request.prompt:
        raise BadRequest("prompt: must not be empty")
    texts = (*(message.content for message in request.messages), request.prompt)
    try:
        prompt_bytes = sum(len(text.encode()) for text in texts)
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
    if not 0 <= request.priority <= 9:
        raise BadRequest("priority: must be between 0 and 9")
