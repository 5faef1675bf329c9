"""/metrics as Prometheus reads it, its documentation and its dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from edged.api.events import Usage
from edged.api.status import (
    Condition,
    EngineState,
    HostStatus,
    MemoryParts,
    MemoryStatus,
    ModelInfo,
    MqttStatus,
    PoolStatus,
    Prediction,
    ServiceState,
    Stalls,
    Status,
)
from edged.tally import Tally
from edged.transports.http.metrics import FAMILIES, exposition

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAME = re.compile(r"\bedged_[a-z_0-9]+\b")
PARTS = ("_bucket", "_sum", "_count")


POOL = PoolStatus(name="hall", state="serving", boxes=2, waiting=1, taken=9, handed_on=4, taken_over=0)


def bare() -> Status:
    """A box without sensors, plan, broker or anything answered."""
    tally = Tally()
    return Status(
        node="attic", version="1.2", pid=1, worker_pid=None, state=ServiceState.LOADING,
        engine=EngineState.SPAWNING, uptime_s=1.5,
        model=ModelInfo(name="m", quant="Q4", file_bytes=7, context_tokens=512, slots=2),
        queue=0, running=0, decode_tps=None, first_token_ms=None, memory=MemoryStatus(budget_bytes=0),
        counters=tally.counters(0), latencies=None,
    )  # fmt: skip


def full() -> Status:
    tally = Tally()
    tally.accepted()
    tally.started(0.2)
    tally.first_token(0.3)
    for gap in (None, 0.03, 0.03, 9.0):
        tally.tokens(1, gap)
    usage = Usage(prompt_tokens=100, completion_tokens=4, cached_tokens=40)
    tally.answered(usage, heard_tokens=4, waited_s=0.2, first_s=0.1, total_s=1.1, decode_s=1.0)
    tally.ended("finished", "stop")
    tally.ended("refused", "busy")
    stalls = Stalls(some_percent=1.0, full_percent=0.5, some_s=12.5, full_s=3.0)
    return structs.replace(
        bare(), state=ServiceState.READY, engine=EngineState.READY, queue=3, running=2, capacity=34,
        decode_tps=tally.decode_tps, prefill_tps=tally.prefill_tps, counters=tally.counters(1),
        latencies=tally.latencies(),
        memory=MemoryStatus(
            budget_bytes=1000, worker_anon_bytes=400, worker_swap_bytes=5, worker_file_bytes=90,
            supervisor_bytes=44, parts=MemoryParts(kv_bytes=100, base_bytes=50),
        ),
        conditions=(Condition(code='odd"\\', severity="warning", message="line\nbreak"),),
        host=HostStatus(temperature_c=61.5, throttled=("under-voltage",), stalls={"memory": stalls}),
        mqtt=MqttStatus(connected=True, broker="hub:1883", topic="edged/attic", outbox=2, lost=1, pool=POOL),
        predicted=Prediction(decode_tps=5.5, first_token_500_s=20.0, worker_mib=2, speed="measured"),
    )  # fmt: skip


def parsed(status: Status) -> dict:
    """Family by name, as Prometheus's own parser reads it; counters under their full name."""
    found = text_string_to_metric_families(exposition(status).decode())
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found}


def value(status: Status, name: str, **labels: str) -> float:
    family = name.removesuffix(next((part for part in PARTS if name.endswith(part)), ""))
    (sample,) = [
        one
        for one in parsed(status)[family].samples
        if one.name == name and labels.items() <= one.labels.items()
    ]
    return sample.value


def test_every_value_is_where_prometheus_looks_for_it():
    status = full()
    assert value(status, "edged_build_info", version="1.2", node="attic") == 1
    assert value(status, "edged_state", state="ready") == 1
    assert value(status, "edged_state", state="loading") == 0
    assert value(status, "edged_condition", code='odd"\\', severity="warning") == 1
    assert value(status, "edged_requests_total", outcome="finished", reason="stop") == 1
    assert value(status, "edged_requests_total", outcome="refused", reason="busy") == 1
    assert value(status, "edged_cached_tokens_total") == 40
    assert value(status, "edged_completion_tokens_total") == 4
    assert value(status, "edged_prefill_tokens_per_second") == pytest.approx(600)
    assert value(status, "edged_engine_memory_bytes", kind="anon") == 400
    assert value(status, "edged_engine_memory_part_bytes", part="kv") == 100
    assert value(status, "edged_temperature_celsius") == 61.5
    assert value(status, "edged_throttled", cause="under-voltage") == 1
    assert value(status, "edged_stalled_seconds_total", resource="memory", kind="full") == 3.0
    assert value(status, "edged_mqtt_connected") == 1
    assert value(status, "edged_mqtt_outbox_messages") == 2
    assert value(status, "edged_mqtt_lost_answers_total") == 1
    assert value(status, "edged_pool_requests_handed_on_total") == 4
    assert value(status, "edged_predicted_engine_memory_bytes") == 2 << 20


def test_buckets_of_a_histogram_are_cumulative_and_end_with_all():
    status = full()
    name = "edged_token_duration_seconds"
    buckets = [one.value for one in parsed(status)[name].samples if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert value(status, f"{name}_bucket", le="0.04") == 2
    assert value(status, f"{name}_bucket", le="+Inf") == value(status, f"{name}_count") == 3
    assert value(status, f"{name}_sum") == pytest.approx(9.06)
    assert value(status, "edged_first_token_duration_seconds_count") == 1


def test_what_a_computer_cannot_tell_has_a_name_and_no_value():
    found = parsed(bare())
    for name in ("edged_temperature_celsius", "edged_mqtt_connected", "edged_token_duration_seconds"):
        assert found[name].samples == []
    assert found.keys() == parsed(full()).keys()


@pytest.mark.parametrize("status", [bare(), full()], ids=["bare", "full"])
def test_names_follow_the_conventions_of_prometheus(status):
    for name, family in parsed(status).items():
        assert re.fullmatch(r"edged_[a-z_]+", name)
        assert family.documentation.endswith(".")
        assert (family.type == "counter") == name.endswith("_total")
        assert not re.search(r"_(ms|mib|kib|percent|milliseconds)(_|$)", name)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_number_of_series_is_bounded_and_small():
    assert len(exposition(full())) < 16_384
    assert sum(len(family.samples) for family in parsed(full()).values()) < 200


def documented() -> dict[str, tuple[str, set[str]]]:
    """Name → (type, labels) of the table in docs/metrics.md."""
    rows = re.findall(
        r"^\| `(edged_\w+)` \| (\w+) \|([^|]*)\|", (DOCS / "metrics.md").read_text(), re.MULTILINE
    )
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_the_documentation_names_exactly_what_is_told():
    told = {
        name: (family.type, {label for sample in family.samples for label in sample.labels})
        for name, family in parsed(full()).items()
    }
    assert documented() == told


def test_every_query_of_the_dashboard_and_the_documentation_asks_for_what_exists():
    dashboard = json.loads((DOCS / "grafana/edged.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    queries += re.findall(r"^\|[^|]+\| `(.*edged_.*)` \|$", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    kinds = {family.name: family.kind for family in FAMILIES}
    exposed = {
        name
        for family, kind in kinds.items()
        for name in ([family + part for part in PARTS] if kind == "histogram" else [family])
    }
    asked = {name for query in queries for name in NAME.findall(query)}
    assert len(queries) > 25
    assert asked <= exposed
    unseen = {name for name in kinds if not any(one.startswith(name) for one in asked)}
    assert unseen <= {"edged_model_info", "edged_engine_state", "edged_requests_accepted_total"} | {
        name for name in kinds if name.startswith(("edged_model_", "edged_predicted_"))
    } | {"edged_prefill_tokens_per_second"}


def test_labels_in_queries_are_labels_that_exist():
    text = (DOCS / "grafana/edged.json").read_text() + (DOCS / "metrics.md").read_text()
    labels = {label for _, found in documented().values() for label in found} | {"instance"}
    assert set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|=)\\?\"", text)) <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) <= labels


def test_panels_of_the_dashboard_do_not_overlap():
    taken = set()
    for panel in json.loads((DOCS / "grafana/edged.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
