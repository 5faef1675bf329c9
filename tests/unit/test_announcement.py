"""What a box says of itself on the local network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edged.api.config import Config, Http, Model, Mqtt, Pool
from edged.api.status import (
    Condition,
    Counters,
    EngineState,
    MemoryStatus,
    ModelInfo,
    ServiceState,
    Status,
)
from edged.transports.announcement import EDGED, MAX_TXT_BYTES, OPENAI, announcements, is_news


def status(**fields) -> Status:
    fields = {
        "state": ServiceState.READY,
        "queue": 0,
        "running": 0,
        "capacity": 8,
        "decode_tps": None,
    } | fields
    return Status(
        node="attic", version="1", pid=1, worker_pid=None, engine=EngineState.READY, uptime_s=1.0,
        model=ModelInfo(name="m", quant="Q4", file_bytes=1, context_tokens=512, slots=2),
        first_token_ms=None, memory=MemoryStatus(budget_bytes=0), counters=Counters(), **fields,
    )  # fmt: skip


def config(**parts) -> Config:
    return Config(node="attic", model=Model(path="/m.gguf"), **parts)


def test_what_can_be_reached_from_outside_is_said_and_nothing_else():
    outside = config(http=Http(host="0.0.0.0", keys_file="keys"), mqtt=Mqtt(enabled=False))
    found = announcements(outside, status(), 8642)
    assert found[EDGED]["http"] == "yes"
    assert found[EDGED]["auth"] == found[OPENAI]["auth"] == "yes"
    assert "mqtt" not in found[EDGED]
    for service in ({}, {"http": Http(enabled=False)}):
        port = None if service else 8642
        inside = announcements(config(**service), status(), port)
        assert list(inside) == [EDGED]
        assert inside[EDGED]["http"] == ("no" if service else "loopback")
        assert inside[EDGED]["topic"] == "edged/attic"


@pytest.mark.parametrize(
    ("queued", "told"), [(0, "0"), (1, "25"), (2, "25"), (3, "50"), (8, "100"), (20, "100")]
)
def test_load_is_told_in_steps_and_never_as_none_when_there_is_some(queued, told):
    assert announcements(config(), status(queue=queued), 1)[EDGED]["load"] == told


def test_health_is_one_word():
    ill = (Condition(code="memory_guard", severity="warning", message="m"),)
    for fields, word in [
        ({}, "ok"),
        ({"conditions": ill}, "degraded"),
        ({"state": ServiceState.LOADING}, "loading"),
        ({"queue": 8}, "overloaded"),
        ({"state": ServiceState.DRAINING}, "degraded"),
    ]:
        assert announcements(config(), status(**fields), 1)[EDGED]["health"] == word


def test_a_box_of_a_pool_names_it():
    assert announcements(config(pool=Pool(enabled=True, name="hall")), status(), 1)[EDGED]["pool"] == "hall"
    assert "pool" not in announcements(config(), status(), 1)[EDGED]


def test_another_speed_alone_is_no_news_and_anything_else_is():
    before = announcements(config(), status(decode_tps=5.0), 1)[EDGED]
    assert before["tok_s"] == "5"
    assert not is_news(before, announcements(config(), status(decode_tps=6.0), 1)[EDGED])
    assert is_news(before, announcements(config(), status(queue=1), 1)[EDGED])
    assert is_news({}, before)


def test_no_pair_is_longer_than_a_record_may_be():
    long = config(mqtt=Mqtt(base="ü" * 400))
    facts = announcements(long, status(), 1)[EDGED]
    assert all(len(f"{key}={value}".encode()) <= MAX_TXT_BYTES for key, value in facts.items())


def test_the_documentation_has_every_key_and_no_other():
    text = (Path(__file__).resolve().parents[2] / "docs/discovery.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (both|`_edged._tcp`) \|", text, re.MULTILINE)
    everything = announcements(
        config(http=Http(host="0.0.0.0", keys_file="k"), pool=Pool(enabled=True)), status(decode_tps=5.0), 1
    )
    assert {key for key, _ in rows} == everything[EDGED].keys()
    assert {key for key, service in rows if service == "both"} == everything[OPENAI].keys()
