"""Requests and answers as edged's MQTT topics carry them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from edgectl.client.vectors import floats
from edgectl.errors import Unhealthy
from edged.api.errors import BY_CODE, EdgeError, Internal
from edged.api.events import (
    Accepted,
    Alternative,
    Channel,
    Delta,
    Finished,
    FinishReason,
    Score,
    Timings,
    TokenLogprob,
    Usage,
)
from edged.api.requests import ToolCall
from edged.api.status import (
    Condition,
    Counters,
    EngineState,
    HostStatus,
    MemoryStatus,
    MqttStatus,
    PoolStatus,
    ServiceState,
    Status,
)

if TYPE_CHECKING:
    from edged.api.requests import Request, Tool
    from edged.api.status import Info

_CHANNELS: dict[str, Channel] = {"delta": "text", "reasoning": "reasoning"}  # by kind of message
MAX_PARTS = 65536  # parts of 256 bytes, the smallest limit in use, then make 16 MiB


class HealthMemory(Struct, frozen=True):
    anon: int = 0
    swap: int = 0
    limit: int = 0


class Health(Struct, frozen=True):
    """The health topic; ``mem`` is in bytes, ``tok_s`` of one answer."""

    state: str = "ok"
    queue: int = 0
    running: int = 0
    loaded: bool = True
    tok_s: float | None = None
    mem: HealthMemory = HealthMemory()
    temp_c: float | None = None
    throttled: tuple[str, ...] | None = None
    conditions: tuple[str, ...] = ()
    pool: PoolStatus | None = None


class _OnlyId(Struct, frozen=True):
    id: str | None = None


class _Told(Struct, frozen=True):
    """A message of the stream topic."""

    kind: str = ""
    seq: int = 0
    delta: str = ""
    position: int = 0
    eta_s: float | None = None


class _Token(Struct, frozen=True):
    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    @property
    def told(self) -> TokenLogprob:
        others = tuple(Alternative(token.encode(), logprob) for token, logprob in self.top)
        return TokenLogprob(self.token.encode(), self.logprob, others)


class _Failure(Struct, frozen=True):
    code: str = "internal"
    message: str = ""
    retry_after_s: float | None = None


class Part(Struct, frozen=True):
    """A message of a response topic: an answer, a numbered part of one, or a failure."""

    ok: bool
    part: int = 1
    parts: int = 1
    text: str = ""
    finish: FinishReason | None = None
    usage: Usage | None = None
    t_queue_ms: float = 0.0
    t_first_ms: float = 0.0
    t_total_ms: float = 0.0
    scores: tuple[Score, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    logprobs: tuple[_Token, ...] = ()
    embeddings: tuple[str, ...] = ()
    error: _Failure = _Failure()


def payload(request: Request, *, stream: bool) -> bytes:
    """The JSON of ``request``; what it leaves open is left out, so that the box's defaults hold.

    The same request always gives the same bytes: the box knows a repetition by them.
    """
    asked: dict[str, Any] = {
        "id": request.id,
        "messages": msgspec.to_builtins(request.messages) or None,
        "prompt": request.prompt or None,
        "template": request.template or None,
        "choices": list(request.choices) or None,
        "scoring": request.scoring if request.op == "classify" else None,
        "inputs": list(request.inputs) or None,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "thinking": request.thinking,
        "thinking_budget": request.thinking_budget,
        "schema": Raw(request.schema.encode()) if request.schema else None,
        "json_mode": request.json_mode or None,
        "tools": list(map(_tool, request.tools)) or None,
        "tool_choice": None if request.tool_choice == "auto" else request.tool_choice,
        "parallel_tool_calls": None if request.parallel_tool_calls else False,
        "logprobs": request.logprobs,
        "ttl_s": request.ttl_s,
        "priority": None if request.priority == 5 else request.priority,
        "stream": stream or None,
        **msgspec.to_builtins(request.sampling),
    }
    return msgspec.json.encode({name: value for name, value in asked.items() if value is not None})


def _tool(tool: Tool) -> dict[str, Any]:
    said: dict[str, Any] = {"name": tool.name}
    if tool.description:
        said["description"] = tool.description
    if tool.parameters:
        said["parameters"] = Raw(tool.parameters.encode())
    return said


def request_id(raw: bytes) -> str | None:
    """The id of the request a message is about; None when it is about none of ours."""
    try:
        return msgspec.json.decode(raw, type=_OnlyId).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def told(raw: bytes, request: str) -> Accepted | Delta | None:
    """A message of the stream topic; None for kinds that say nothing new."""
    found = _decode(raw, _Told)
    if found.kind == "accepted":
        return Accepted(id=request, position=found.position, eta_s=found.eta_s)
    channel = _CHANNELS.get(found.kind)
    return channel and Delta(id=request, seq=found.seq, text=found.delta, channel=channel)


class Parts:
    """Collects the parts of one answer, in any order and any number of times."""

    def __init__(self, request: str) -> None:
        self._id = request
        # Number of parts → those that are here. A repeated answer is cut differently when the broker's
        # limit changed in between.
        self._cuts: dict[int, dict[int, Part]] = {}

    def add(self, raw: bytes) -> Finished | None:
        """The answer when ``raw`` was the last part missing; raises the failure it is, or Unhealthy."""
        part = _decode(raw, Part)
        if not part.ok:
            raise _error(part.error)
        if not 1 <= part.part <= part.parts <= MAX_PARTS:
            raise Unhealthy("the parts of the answer do not fit together", hint="ask again")
        found = self._cuts.setdefault(part.parts, {})
        found.setdefault(part.part, part)
        if len(found) < part.parts:
            return None
        ordered = [found[number] for number in range(1, part.parts + 1)]
        last = ordered[-1]
        return Finished(
            id=self._id,
            text="".join(one.text for one in ordered),
            finish=last.finish or "stop",
            usage=last.usage or Usage(prompt_tokens=0, completion_tokens=0),
            timings=Timings(queue_ms=last.t_queue_ms, first_ms=last.t_first_ms, total_ms=last.t_total_ms),
            reasoning=last.reasoning,
            tool_calls=last.tool_calls,
            logprobs=tuple(one.told for one in last.logprobs) if last.logprobs else None,
            scores=last.scores,
            embeddings=tuple(floats(vector) for one in ordered for vector in one.embeddings),
        )


def status(info: Info, health: Health, *, online: bool, topic: str) -> Status:
    """What the retained topics below ``topic`` tell; ``pid`` 0 marks that the rest is not told over MQTT.

    ``online`` counts more than the health: that is published every few seconds, the other at once.
    """
    working = ServiceState.DEGRADED if health.state == "degraded" else ServiceState.READY
    return Status(
        node=info.node,
        version=info.version,
        pid=0,
        worker_pid=None,
        state=working if online else ServiceState.LOADING,
        engine=_engine(health, online=online),
        uptime_s=0.0,
        model=info.model,
        queue=health.queue,
        running=health.running,
        decode_tps=health.tok_s,
        first_token_ms=None,
        memory=MemoryStatus(
            budget_bytes=health.mem.limit,
            worker_anon_bytes=health.mem.anon,
            worker_swap_bytes=health.mem.swap,
        ),
        counters=Counters(),
        # A box tells its places when they are all taken.
        capacity=health.queue + health.running if health.state == "overloaded" else 0,
        host=HostStatus(temperature_c=health.temp_c, throttled=health.throttled),
        mqtt=MqttStatus(connected=online, broker="", topic=topic, pool=health.pool),
        conditions=tuple(
            Condition(code=code, severity="warning", message=code.replace("_", " "))
            for code in health.conditions
        ),
    )


def _engine(health: Health, *, online: bool) -> EngineState:
    if not online:
        return EngineState.LOADING
    return EngineState.READY if health.loaded else EngineState.UNLOADED


def _error(failure: _Failure) -> EdgeError:
    kind = BY_CODE.get(failure.code, Internal)
    return kind(failure.message or f"the box reports {failure.code}", retry_after_s=failure.retry_after_s)


def _decode(raw: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unhealthy(
            f"a message of the box cannot be read: {error}", hint="are edgectl and edged of one version?"
        ) from None
