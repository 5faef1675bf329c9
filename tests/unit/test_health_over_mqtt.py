"""What a box publishes as its health, and what clients make of it."""

from __future__ import annotations

import msgspec
import pytest

from edgectl.client import mqtt_wire
from edged.api.status import (
    Condition,
    Counters,
    EngineState,
    HostStatus,
    Info,
    Limits,
    MemoryStatus,
    ModelInfo,
    MqttStatus,
    PoolStatus,
    ServiceState,
    Status,
)
from edged.transports.mqtt import presence

MODEL = ModelInfo(name="m", quant="Q4", file_bytes=1, context_tokens=512, slots=2)
LIMITS = Limits(max_prompt_tokens=1, max_tokens=1, max_prompt_bytes=1, max_reply_bytes=1)
INFO = Info(node="attic", version="1", model=MODEL, board="", limits=LIMITS, features=("chat",))


def seen(
    *, queue: int = 0, conditions: tuple[Condition, ...] = (), pool: PoolStatus | None = None, **host
) -> Status:
    """A status as it comes out at the other side of the broker."""
    told = Status(
        node="attic", version="1", pid=1, worker_pid=2, state=ServiceState.READY, engine=EngineState.READY,
        uptime_s=1.0, model=MODEL, queue=queue, running=0, decode_tps=4.5, first_token_ms=None,
        memory=MemoryStatus(budget_bytes=100), counters=Counters(), conditions=conditions,
        capacity=8, host=HostStatus(**host),
        mqtt=MqttStatus(connected=True, broker="10.0.0.5:1883", topic="edged/attic", outbox=3, pool=pool),
    )  # fmt: skip
    facts = msgspec.json.encode(presence.health(told))
    health = msgspec.json.decode(facts, type=mqtt_wire.Health)
    return mqtt_wire.status(INFO, health, online=True, topic="edged/attic")


@pytest.mark.parametrize(("queued", "health"), [(0, "ok"), (7, "ok"), (8, "overloaded"), (9, "overloaded")])
def test_a_box_with_every_place_taken_is_overloaded_over_mqtt_too(queued, health):
    assert seen(queue=queued).health == health


def test_heat_and_throttling_arrive():
    status = seen(temperature_c=71, throttled=("under-voltage",))
    assert status.host.temperature_c == 71
    assert status.host.throttled == ("under-voltage",)
    assert seen().host.temperature_c is None


def test_a_condition_makes_it_degraded():
    status = seen(conditions=(Condition(code="memory_guard", severity="warning", message="m"),))
    assert status.health == "degraded"
    assert [condition.code for condition in status.conditions] == ["memory_guard"]


def test_the_pool_of_a_box_arrives():
    pool = PoolStatus(name="pool", state="away", boxes=2, waiting=1, taken=9, handed_on=4, taken_over=0)
    assert seen(pool=pool).mqtt == MqttStatus(connected=True, broker="", topic="edged/attic", pool=pool)
    assert seen().mqtt.pool is None
