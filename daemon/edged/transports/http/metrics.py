"""What `/metrics` tells: the status as Prometheus text, from one table of families.

The format is version 0.0.4 of https://prometheus.io/docs/instrumenting/exposition_formats/. A family is
there whether or not this computer has something to tell of it, so that docs/metrics.md holds everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from edged.api.status import EngineState, ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from msgspec import Struct

    from edged.api.status import Histogram, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MIB = 1 << 20

Kind: TypeAlias = Literal["gauge", "counter", "histogram"]
# Labels and the value beside them; a histogram is one value.
Sample: TypeAlias = "tuple[dict[str, str], float | Histogram]"
Told: TypeAlias = "float | Histogram | list[Sample] | None"


class Family(NamedTuple):
    """Everything of one name. ``read`` gives its one value, its samples, or None where there is none."""

    name: str
    kind: Kind
    help: str
    read: Callable[[Status], Told]


def exposition(status: Status) -> bytes:
    """All families of ``status`` as text."""
    return "".join(line for family in FAMILIES for line in _lines(family, status)).encode()


def _of(told: Struct | None, field: str) -> Any:
    """One field of what the box tells; None when it tells nothing of it."""
    return None if told is None else getattr(told, field)


def _pool(status: Status, field: str) -> Any:
    return _of(status.mqtt.pool if status.mqtt else None, field)


def _one_of(states: type[ServiceState | EngineState], state: str) -> list[Sample]:
    return [({"state": name.value}, float(name == state)) for name in states]


def _conditions(status: Status) -> list[Sample]:
    found = {(condition.code, condition.severity) for condition in status.conditions}
    return [({"code": code, "severity": severity}, 1.0) for code, severity in sorted(found)]


def _outcomes(status: Status) -> list[Sample]:
    return [
        ({"outcome": outcome, "reason": reason}, count)
        for outcome, reasons in status.counters.outcomes.items()
        for reason, count in sorted(reasons.items())
    ]


def _engine_memory(status: Status) -> list[Sample]:
    memory = status.memory
    kinds = {
        "anon": memory.worker_anon_bytes,
        "swap": memory.worker_swap_bytes,
        "file": memory.worker_file_bytes,
    }
    return [({"kind": kind}, size) for kind, size in kinds.items()]


def _memory_parts(status: Status) -> list[Sample]:
    parts = status.memory.parts
    if parts is None:
        return []
    names = (name.removesuffix("_bytes") for name in parts.__struct_fields__)
    return [({"part": name}, getattr(parts, f"{name}_bytes")) for name in names]


def _stalls(status: Status) -> list[Sample]:
    return [
        ({"resource": resource, "kind": kind}, seconds)
        for resource, stalls in status.host.stalls.items()
        for kind, seconds in (("some", stalls.some_s), ("full", stalls.full_s))
    ]


def _throttled(status: Status) -> list[Sample]:
    return [({"cause": cause}, 1.0) for cause in status.host.throttled or ()]


def _build(status: Status) -> list[Sample]:
    return [({"version": status.version, "node": status.node}, 1.0)]


def _model(status: Status) -> list[Sample]:
    return [({"name": status.model.name, "quant": status.model.quant}, 1.0)]


# In the order in which /metrics tells them; docs/metrics.md says more on each, and a test compares the two.
FAMILIES: tuple[Family, ...] = (
    Family("edged_build_info", "gauge", "Version and name of this box; always 1.", _build),
    Family("edged_uptime_seconds", "gauge", "Since the daemon started.", lambda s: s.uptime_s),
    Family(
        "edged_state", "gauge", "1 for the state the service is in.", lambda s: _one_of(ServiceState, s.state)
    ),
    Family(
        "edged_engine_state",
        "gauge",
        "1 for the state the engine is in.",
        lambda s: _one_of(EngineState, s.engine),
    ),
    Family("edged_condition", "gauge", "1 for each thing that is not as it should be.", _conditions),
    Family("edged_model_info", "gauge", "Name and quantization of the model; always 1.", _model),
    Family("edged_model_file_bytes", "gauge", "Size of the model's file.", lambda s: s.model.file_bytes),
    Family(
        "edged_model_context_tokens",
        "gauge",
        "Prompt and answer together that one slot holds.",
        lambda s: s.model.context_tokens,
    ),
    Family("edged_model_slots", "gauge", "Requests decoded at the same time.", lambda s: s.model.slots),
    Family("edged_requests_accepted_total", "counter", "Requests taken on.", lambda s: s.counters.accepted),
    Family("edged_requests_total", "counter", "Requests that ended, by how.", _outcomes),
    Family("edged_requests_queued", "gauge", "Requests waiting for a slot.", lambda s: s.queue),
    Family("edged_requests_running", "gauge", "Requests being answered.", lambda s: s.running),
    Family(
        "edged_requests_capacity",
        "gauge",
        "Requests that may be accepted and unanswered at once.",
        lambda s: s.capacity,
    ),
    Family(
        "edged_intake_ratio",
        "gauge",
        "Share of the usual work that is let in; below 1 when the box is hot or short of memory.",
        lambda s: s.intake,
    ),
    Family(
        "edged_prompt_tokens_total",
        "counter",
        "Tokens of the prompts of answered requests.",
        lambda s: s.counters.prompt_tokens,
    ),
    Family(
        "edged_cached_tokens_total",
        "counter",
        "Of those, tokens that were known and not evaluated again.",
        lambda s: s.counters.cached_tokens,
    ),
    Family(
        "edged_completion_tokens_total",
        "counter",
        "Tokens generated.",
        lambda s: s.counters.completion_tokens,
    ),
    Family(
        "edged_queue_duration_seconds",
        "histogram",
        "From acceptance to a slot.",
        lambda s: _of(s.latencies, "queue_s"),
    ),
    Family(
        "edged_first_token_duration_seconds",
        "histogram",
        "From acceptance to the first token.",
        lambda s: _of(s.latencies, "first_token_s"),
    ),
    Family(
        "edged_token_duration_seconds",
        "histogram",
        "From one token of an answer to the next.",
        lambda s: _of(s.latencies, "token_s"),
    ),
    Family(
        "edged_request_duration_seconds",
        "histogram",
        "From acceptance to the end of an answer.",
        lambda s: _of(s.latencies, "request_s"),
    ),
    Family(
        "edged_decode_tokens_per_second",
        "gauge",
        "Median speed of one answer, of the last 32.",
        lambda s: s.decode_tps,
    ),
    Family(
        "edged_prefill_tokens_per_second",
        "gauge",
        "Median speed of reading a prompt, of the last 32.",
        lambda s: s.prefill_tps,
    ),
    Family(
        "edged_engine_restarts_total",
        "counter",
        "Times the engine's process was replaced.",
        lambda s: s.counters.engine_restarts,
    ),
    Family("edged_engine_memory_bytes", "gauge", "Memory of the engine's process, by kind.", _engine_memory),
    Family(
        "edged_engine_memory_limit_bytes",
        "gauge",
        "Budget of anon and swap together.",
        lambda s: s.memory.budget_bytes or None,
    ),
    Family(
        "edged_engine_memory_part_bytes", "gauge", "What the engine says its memory is for.", _memory_parts
    ),
    Family(
        "edged_daemon_memory_bytes",
        "gauge",
        "Resident memory of the daemon without the engine.",
        lambda s: s.memory.supervisor_bytes or None,
    ),
    Family(
        "edged_temperature_celsius",
        "gauge",
        "Of the hottest thermal zone.",
        lambda s: s.host.temperature_c,
    ),
    Family("edged_throttled", "gauge", "1 for each cause that slows the board now.", _throttled),
    Family(
        "edged_stalled_seconds_total",
        "counter",
        "Time in which some or all tasks of the computer waited for a resource, since its boot.",
        _stalls,
    ),
    Family(
        "edged_mqtt_connected",
        "gauge",
        "1 while the broker is connected.",
        lambda s: _of(s.mqtt, "connected"),
    ),
    Family(
        "edged_mqtt_outbox_messages",
        "gauge",
        "Answers the broker has not confirmed.",
        lambda s: _of(s.mqtt, "outbox"),
    ),
    Family(
        "edged_mqtt_lost_answers_total",
        "counter",
        "Answers given up because the broker was away.",
        lambda s: _of(s.mqtt, "lost"),
    ),
    Family("edged_pool_boxes", "gauge", "Other boxes of the pool that serve.", lambda s: _pool(s, "boxes")),
    Family(
        "edged_pool_requests_waiting",
        "gauge",
        "Requests of the pool dealt to this box and not begun.",
        lambda s: _pool(s, "waiting"),
    ),
    Family(
        "edged_pool_requests_taken_total",
        "counter",
        "Requests of the pool begun here.",
        lambda s: _pool(s, "taken"),
    ),
    Family(
        "edged_pool_requests_handed_on_total",
        "counter",
        "Requests of the pool given to another box.",
        lambda s: _pool(s, "handed_on"),
    ),
    Family(
        "edged_pool_sessions_taken_over_total",
        "counter",
        "Sessions of boxes that were gone.",
        lambda s: _pool(s, "taken_over"),
    ),
    Family(
        "edged_predicted_decode_tokens_per_second",
        "gauge",
        "What the plan said of one answer alone.",
        lambda s: _of(s.predicted, "decode_tps"),
    ),
    Family(
        "edged_predicted_first_token_seconds",
        "gauge",
        "What the plan said of a prompt of 500 tokens.",
        lambda s: _of(s.predicted, "first_token_500_s"),
    ),
    Family(
        "edged_predicted_engine_memory_bytes",
        "gauge",
        "What the plan said of the engine with every context full.",
        lambda s: s.predicted.worker_mib * MIB if s.predicted else None,
    ),
)


def _lines(family: Family, status: Status) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
    told = family.read(status)
    if told is None:
        return
    for labels, value in told if isinstance(told, list) else [({}, told)]:
        if isinstance(value, int | float):
            yield _sample(family.name, labels, value)
        else:
            yield from _histogram(family.name, value)


def _histogram(name: str, histogram: Histogram) -> Iterator[str]:
    """Cumulative, as Prometheus has it: each bucket counts all that is at most its bound."""
    total = 0
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        total += count
        yield _sample(f"{name}_bucket", {"le": str(bound)}, total)
    yield _sample(f"{name}_sum", {}, histogram.sum)
    yield _sample(f"{name}_count", {}, total)


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {float(value)!r}\n" if inner else f"{name} {float(value)!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
