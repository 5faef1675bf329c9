"""Turns the bytes of a request into a checked Request, or one error that names the field (pure).

A request is one JSON object. ``id`` names it: repeat the id with the same payload and you get the same
answer without a second computation. Without an id, the MQTT 5 correlation data serves as one; without
that too, edged makes one up, which starts with ``auto-``, and every reply carries it.
"""

from __future__ import annotations

import difflib
import hashlib
import re

import msgspec
from msgspec import Raw, Struct, structs

from edged.api.errors import BadRequest, Expired, TooLarge, shown
from edged.api.requests import (
    ID_PATTERN,
    MAX_SCHEMA_BYTES,
    Limits,
    Message,
    Op,
    Request,
    Sampling,
    ScoringRule,
    Tool,
)
from edged.transports.mqtt.pool_needs import Needs
from edged.transports.mqtt.topics import OF_ASK

OPS: tuple[Op, ...] = ("chat", "generate", "classify", "embed")
MIN_MAX_BYTES = 160  # the longest id, the keys of a part and 16 bytes of text
MAX_CORRELATION_BYTES = 1024  # kept per request and sent back with each part
# Keys, numbers, stop strings, a reply topic and a schema around the prompt.
JSON_OVERHEAD_BYTES = 16384 + MAX_SCHEMA_BYTES
_NAME_CHARS = 64


class ToolBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function the model may call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Raw = Raw()


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a request; units in the names, meanings as in edged.api.requests."""

    id: str | None = None
    prompt: str | None = None  # of a chat, and where choices are scored: the one user message
    messages: tuple[Message, ...] | None = None
    system: str | None = None  # put before the messages
    template: str = ""  # the one of the box with this name is
    choices: tuple[str, ...] = ()
    scoring: ScoringRule | None = None
    inputs: tuple[str, ...] | str = ()  # texts to embed
    max_tokens: int | None = None
    max_bytes: int | None = None  # of one reply message, whole payload; longer answers come in parts
    ttl_s: float | None = None
    priority: int = 5
    stream: bool = False
    stop: tuple[str, ...] | str = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    thinking: bool | None = None
    thinking_budget: int | None = None
    schema: Raw = Raw()  # the JSON schema that the answer must keep
    json_mode: bool = False
    tools: tuple[ToolBody, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    logprobs: int | None = None
    reply_to: str | None = None  # one more topic for the answer
    needs: Needs | None = None  # only a box that has it answers


class Asked(Struct, frozen=True, kw_only=True):
    """A request and how its client wants to be answered."""

    request: Request
    stream: bool = False
    max_bytes: int | None = None
    reply_to: str | None = None
    needs: Needs | None = None


class _OnlyId(Struct, frozen=True):
    id: str | None = None


def max_payload_bytes(limits: Limits) -> int:
    """What is parsed at all: the largest prompt, every character of it escaped, and what is around it."""
    return 6 * limits.max_prompt_bytes + JSON_OVERHEAD_BYTES


def decode_request(
    payload: bytes, *, client: str, op: str, limits: Limits, fallback_id: str, expiry_s: int | None = None
) -> Asked:
    """The request in ``payload``; raises BadRequest, TooLarge or Expired and never anything else.

    ``expiry_s`` is what is left of the MQTT 5 message expiry interval; the shorter of it and ``ttl_s``
    counts. Rules that hold for every transport (ranges, sizes, the id's characters) are the service's.
    """
    if op not in OPS:
        raise BadRequest(f"op: there is no operation {op!r}; there are {', '.join(OPS)}")
    body = _parse(payload, limits)
    if body.id is not None and not ID_PATTERN.fullmatch(body.id):
        raise BadRequest("id: 1 to 64 characters of A-Z a-z 0-9 . _ : - are allowed")
    if body.max_bytes is not None and body.max_bytes < MIN_MAX_BYTES:
        raise BadRequest(f"max_bytes: must be at least {MIN_MAX_BYTES}")
    _check_fields(body, op)
    prompt, messages = ("", ()) if op == "embed" else _texts(body, op)
    request = Request(
        id=fallback_id if body.id is None else body.id,
        client=client,
        op=op,
        messages=messages,
        prompt=prompt,
        choices=body.choices,
        scoring=body.scoring or "constrained",
        inputs=(body.inputs,) if isinstance(body.inputs, str) else body.inputs,
        max_tokens=body.max_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else body.stop,
        sampling=Sampling(**{name: getattr(body, name) for name in Sampling.__struct_fields__}),
        thinking=body.thinking,
        thinking_budget=body.thinking_budget,
        schema=_json(body.schema),
        json_mode=body.json_mode,
        tools=tuple(
            Tool(name=tool.name, description=tool.description, parameters=_json(tool.parameters))
            for tool in body.tools
        ),
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        logprobs=body.logprobs,
        template=body.template,
        ttl_s=_ttl_s(body.ttl_s, expiry_s),
        priority=body.priority,
    )
    return Asked(
        request=request,
        stream=body.stream,
        max_bytes=body.max_bytes,
        reply_to=body.reply_to,
        needs=body.needs,
    )


def decode_ask(
    payload: bytes,
    *,
    request_id: str,
    limits: Limits,
    max_tokens: int = 0,
    template: str = "",
    expiry_s: int | None = None,
) -> Asked:
    """A question in plain UTF-8 text; raises BadRequest, TooLarge or Expired."""
    if len(payload) > limits.max_prompt_bytes:
        raise TooLarge(f"the prompt has {len(payload)} bytes; this box takes {limits.max_prompt_bytes}")
    try:
        text = payload.decode().strip()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the prompt is not UTF-8 text (byte {error.start})") from None
    if not text:
        raise BadRequest("the prompt is empty")
    request = Request(
        id=request_id,
        client=OF_ASK,
        op="chat",
        messages=(Message(role="user", content=text),),
        template=template,
        max_tokens=max_tokens or limits.default_max_tokens,
        ttl_s=_ttl_s(None, expiry_s),
    )
    return Asked(request=request)


def aged(asked: Asked, waited_s: float, limits: Limits) -> Asked:
    """``asked`` as it is after so long a wait; raises Expired when that was longer than it may wait."""
    if not waited_s:
        return asked
    left_s = (asked.request.ttl_s or limits.default_ttl_s) - waited_s
    if left_s <= 0:
        raise Expired("it waited longer than it may")
    return structs.replace(asked, request=structs.replace(asked.request, ttl_s=left_s))


def read_id(payload: bytes, limits: Limits) -> str | None:
    """The id of a request that was refused, if it can be told without trusting the rest."""
    if len(payload) > max_payload_bytes(limits):
        return None
    try:
        found = msgspec.json.decode(payload, type=_OnlyId).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found is not None and ID_PATTERN.fullmatch(found) else None


def correlation_id(correlation: bytes) -> str:
    """The id that MQTT 5 correlation data stands for."""
    return f"auto-{hashlib.sha256(correlation).hexdigest()[:32]}"


def check_correlation(correlation: bytes | None) -> bytes | None:
    if correlation is not None and len(correlation) > MAX_CORRELATION_BYTES:
        raise BadRequest(f"correlation data: at most {MAX_CORRELATION_BYTES} bytes are allowed")
    return correlation


def _parse(payload: bytes, limits: Limits) -> Body:
    limit = max_payload_bytes(limits)
    if len(payload) > limit:
        raise TooLarge(f"the payload has {len(payload)} bytes; this box takes {limit}")
    try:
        payload.decode()  # msgspec looks only at the strings it keeps
        return msgspec.json.decode(payload, type=Body)
    except msgspec.ValidationError as error:
        raise BadRequest(_named(str(error))) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the payload is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"the payload is not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise BadRequest("the payload is nested too deeply") from None


def _named(problem: str) -> str:
    """A message of msgspec as "field: what is wrong with it"."""
    text, _, path = problem.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL)
    if unknown:
        name = unknown[1]
        known = structs.fields(Body if not where else Needs if where == "needs" else Message)
        close = difflib.get_close_matches(name[:_NAME_CHARS], [one.name for one in known], n=1)
        place = shown(f"{where}.{name}" if where else name, _NAME_CHARS)
        return f"{place}: there is no such field" + (f"; did you mean {close[0]}?" if close else "")
    text = shown(text[:1].lower() + text[1:])
    return f"{shown(where, _NAME_CHARS)}: {text}" if where else f"the payload: {text}"


def _check_fields(body: Body, op: Op) -> None:
    """Raise BadRequest for a field that means nothing in ``op``."""
    if body.scoring is not None and op != "classify":
        raise BadRequest("scoring: belongs to classify")
    if body.inputs and op != "embed":
        raise BadRequest("inputs: belongs to embed")
    if op == "embed":
        for name in ("prompt", "messages", "system"):
            if getattr(body, name) is not None:
                raise BadRequest(f"{name}: belongs to chat; embed takes inputs")


def _texts(body: Body, op: str) -> tuple[str, tuple[Message, ...]]:
    if body.prompt is not None and body.messages is not None:
        raise BadRequest("prompt, messages: give one of the two")
    if op == "generate":
        for name in ("messages", "system"):
            if getattr(body, name) is not None:
                raise BadRequest(f"{name}: belongs to chat; generate takes a prompt as it is")
        if body.prompt is None:
            raise BadRequest("prompt: is needed")
        return body.prompt, ()
    if body.prompt is None and body.messages is None:
        raise BadRequest("messages: is needed (or prompt, for a single user message)")
    messages = body.messages or (Message(role="user", content=body.prompt or ""),)
    if body.system is not None:
        messages = (Message(role="system", content=body.system), *messages)
    return "", messages


def _json(raw: Raw) -> str:
    """JSON as it came; ``null`` is nothing."""
    text = bytes(raw).decode()
    return "" if text == "null" else text


def _ttl_s(wanted_s: float | None, expiry_s: int | None) -> float | None:
    if expiry_s is None:
        return wanted_s
    if expiry_s <= 0:
        raise Expired("the message expired on its way")
    return float(expiry_s) if wanted_s is None else min(wanted_s, float(expiry_s))
