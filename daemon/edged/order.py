"""What the worker is told to do for a request: the configuration fills in what the request leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from edged.api.errors import BadRequest
from edged.api.requests import Message, Question, Sampling
from edged.ipc.messages import Start

if TYPE_CHECKING:
    from edged.api.config import Config
    from edged.api.requests import Request


def order_of(request: Request, config: Config) -> Start:
    """Without key and time to live. Raises BadRequest when the request's template cannot be used."""
    model = config.model
    budget = request.thinking_budget if request.thinking_budget is not None else model.thinking_budget or None
    wanted = model.thinking if request.thinking is None else request.thinking
    thinking = request.op == "chat" and wanted and budget != 0
    sampling = _with(model.sampling, model.sampling_thinking) if thinking else model.sampling
    asked = {name: getattr(request, name) for name in Question.__struct_fields__}
    filled = {
        "messages": _messages(request, config),
        "sampling": _with(sampling, request.sampling),
        "thinking_budget": budget,
        "ttl_s": None,
    }
    most = request.max_tokens or config.limits.default_max_tokens
    pace_s = config.limits.stream_interval_ms / 1000
    return Start(key=0, max_tokens=most, thinking=thinking, pace_s=pace_s, **asked | filled)


def _with(preset: Sampling, chosen: Sampling) -> Sampling:
    """``preset`` with what ``chosen`` says."""
    said = {name: value for name, value in structs.asdict(chosen).items() if value is not None}
    changed: Sampling = structs.replace(preset, **said)
    return changed


def _messages(request: Request, config: Config) -> tuple[Message, ...]:
    """The conversation, with the system message of its template or of the model when it has none itself."""
    messages = request.messages
    brings_one = bool(messages) and messages[0].role == "system"
    system = _template(request, config) if request.template else config.model.system
    if request.template and brings_one:
        raise BadRequest("template: the conversation has a system message already; leave one of them out")
    if not messages or brings_one or not system:
        return messages
    return (Message(role="system", content=system), *messages)


def _template(request: Request, config: Config) -> str:
    found = config.templates.get(request.template)
    if found is None:
        known = ", ".join(sorted(config.templates)) or "none"
        raise BadRequest(f"template: there is no {request.template[:48]!r} here; known are: {known}")
    if not request.messages:
        raise BadRequest(f"template: it begins a conversation, so it needs messages; {request.op} has none")
    return found.system
