"""The curves of `edgectl top`, and what it tells of one look."""

from __future__ import annotations

import io

import pytest
from msgspec import structs
from rich.console import Console

from edgectl.commands.top import line
from edgectl.output.top import MOST_POINTS, Trail, curve, tokens_per_s
from edged.api.status import (
    Condition,
    Counters,
    EngineState,
    HostStatus,
    MemoryStatus,
    ModelInfo,
    MqttStatus,
    Prediction,
    ServiceState,
    Status,
)


def look(uptime_s=10.0, tokens=100, **fields) -> Status:
    return Status(
        node="attic", version="1", pid=fields.pop("pid", 7), worker_pid=8, state=ServiceState.READY,
        engine=EngineState.READY, uptime_s=uptime_s,
        model=ModelInfo(name="m", quant="Q4", file_bytes=1, context_tokens=512, slots=2),
        queue=fields.pop("queue", 0), running=fields.pop("running", 0), decode_tps=5.0,
        first_token_ms=None, memory=fields.pop("memory", MemoryStatus(budget_bytes=0)),
        counters=Counters(completion_tokens=tokens), **fields,
    )  # fmt: skip


def shown(trail: Trail, status: Status, columns: int) -> str:
    console = Console(file=io.StringIO(), width=columns, highlight=False)
    console.print(trail.picture(status, columns))
    return console.file.getvalue()


def test_tokens_a_second_are_those_between_two_looks():
    assert tokens_per_s(None, look()) is None
    assert tokens_per_s(look(10.0, 100), look(12.0, 130)) == pytest.approx(15.0)


def test_a_restart_and_a_box_seen_over_mqtt_have_no_rate():
    assert tokens_per_s(look(10.0, 100), look(1.0, 5)) is None
    assert tokens_per_s(look(pid=0), look(12.0, 130, pid=0)) is None


def test_a_curve_is_as_wide_as_it_is_told_and_shows_what_is_not_nothing():
    assert curve([0.0, 0.01, 1.0, None, 0.5], 8, top=1.0) == "    ▁█ ▄"[:4] + "▁█ ▄"
    assert curve([float(number) for number in range(100)], 10, top=1.0)[-1] == "█"
    assert len(curve([1.0] * 300, 40, top=1.0)) == 40


def test_a_value_above_the_top_moves_the_top():
    assert curve([5.0, 10.0], 2, top=5.0) == "▄█"


def test_only_the_last_looks_are_kept():
    trail = Trail()
    for number in range(MOST_POINTS + 10):
        trail.add(look(float(number), number))
    assert len(trail.moments) == MOST_POINTS


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_picture_fits_its_terminal(columns):
    trail = Trail()
    status = look(
        memory=MemoryStatus(budget_bytes=400 << 20, worker_anon_bytes=300 << 20),
        host=HostStatus(temperature_c=61.4, throttled=("under-voltage",)),
        mqtt=MqttStatus(connected=False, broker="hub:1883", topic="edged/attic"),
        predicted=Prediction(decode_tps=6.0, first_token_500_s=9.0, worker_mib=300, speed="estimated"),
        running=2, queue=3,
    )  # fmt: skip
    trail.add(status)
    trail.add(structs.replace(status, uptime_s=12.0))
    picture = shown(trail, status, columns)
    assert max(map(len, picture.splitlines())) <= columns
    for words in ("2 running, 3 waiting", "300 MiB", "61 °C", "under-voltage", "not connected", "predicted"):
        assert words in picture


def test_a_line_tells_one_look():
    status = look(running=1, queue=2, memory=MemoryStatus(budget_bytes=355 << 20, worker_anon_bytes=90 << 20))
    ill = (Condition(code="memory_guard", severity="warning", message="m"),)
    assert line(structs.replace(status, conditions=ill), 4.25) == (
        "attic  ready  4.2 tok/s  1 running  2 waiting  90/355 MiB  memory_guard"
    )
    assert "- tok/s" in line(status, None)
