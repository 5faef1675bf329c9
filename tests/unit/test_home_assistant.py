"""The discovery message is what Home Assistant documents, and its templates fit what the box publishes."""

from __future__ import annotations

import json
import re

import jinja2
import pytest
from msgspec import structs

from edged.api.events import Finished, Timings, Usage
from edged.api.status import (
    Condition,
    Counters,
    EngineState,
    HostStatus,
    Info,
    Limits,
    MemoryStatus,
    ModelInfo,
    ServiceState,
    Status,
)
from edged.transports.mqtt.home_assistant_device import STATES, config_topic, device_config, object_id
from edged.transports.mqtt.last_answer import last_answer
from edged.transports.mqtt.presence import health
from edged.transports.mqtt.topics import Topics

TOPICS = Topics("edged", "kitchen.pi")
MODEL = ModelInfo(name="qwen3.5-2b", quant="Q4_K_M", file_bytes=1, context_tokens=4096, slots=2)
LIMITS = Limits(max_prompt_tokens=1, max_tokens=1, max_prompt_bytes=1, max_reply_bytes=131072)
INFO = Info(node="kitchen.pi", version="1.2", model=MODEL, board="Raspberry Pi 5", limits=LIMITS, features=())
STATUS = Status(
    node="kitchen.pi", version="1.2", pid=1, worker_pid=2, state=ServiceState.READY, engine=EngineState.READY,
    uptime_s=1.0, model=MODEL, queue=3, running=1, decode_tps=7.46, first_token_ms=None,
    memory=MemoryStatus(budget_bytes=1000, worker_anon_bytes=400, worker_swap_bytes=23),
    counters=Counters(),
)  # fmt: skip
SENSED = HostStatus(temperature_c=61, throttled=("under-voltage", "throttled"))
BLIND = HostStatus()

# home-assistant.io/integrations/mqtt: what each platform must have, and what it may have of what we use.
COMMON = {"p", "name", "unique_id", "icon", "entity_category", "device_class"}
REQUIRED = {"sensor": {"state_topic"}, "binary_sensor": {"state_topic"}, "button": {"command_topic"}}
ALLOWED = {
    "sensor": {"state_topic", "value_template", "unit_of_measurement", "state_class", "options",
               "json_attributes_topic"},
    "binary_sensor": {"state_topic", "value_template"},
    "button": {"command_topic", "payload_press"},
}  # fmt: skip
DEVICE_CLASSES = {
    "sensor": {"temperature": {"°C", "°F", "K"}, "enum": {None}, None: {None, "tok/s", "%"}},
    "binary_sensor": {"problem": {None}, "running": {None}},
    "button": {"restart": {None}, None: {None}},
}
CATEGORIES = {
    "sensor": {None, "diagnostic"},
    "binary_sensor": {None, "diagnostic"},
    "button": {None, "config"},
}


@pytest.fixture
def config():
    return json.loads(json.dumps(device_config(TOPICS, INFO, last_answer=True)))


def test_the_message_has_what_a_device_must_have(config):
    assert set(config) == {"dev", "o", "cmps", "availability_topic", "qos"}
    assert config["dev"]["identifiers"] == [object_id("kitchen.pi")]
    assert set(config["dev"]) <= {"identifiers", "name", "manufacturer", "model", "sw_version"}
    assert config["o"]["name"]
    assert (
        config["availability_topic"] == "edged/kitchen.pi/status"
    )  # "online" and "offline" are its defaults


def test_every_entity_has_what_its_platform_needs_and_nothing_else(config):
    for name, entity in config["cmps"].items():
        platform = entity["p"]
        assert {"unique_id", "name"} | REQUIRED[platform] <= set(entity), name
        assert set(entity) <= COMMON | ALLOWED[platform], name
        units = DEVICE_CLASSES[platform][entity.get("device_class")]
        assert entity.get("unit_of_measurement") in units, name
        assert entity.get("entity_category") in CATEGORIES[platform], name
        assert entity.get("state_class") in {None, "measurement"}, name
        assert ("options" in entity) == (entity.get("device_class") == "enum"), name
        assert not ({"options", "state_class"} <= set(entity)), name


def test_no_two_entities_of_two_boxes_share_an_id():
    ids = [
        entity["unique_id"]
        for node in ("a", "b", "a.b", "a_b")
        for entity in device_config(Topics("edged", node), INFO, last_answer=True)["cmps"].values()
    ]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("node", ["pi", "kitchen.pi", "A-1_b", "x" * 48])
def test_the_topic_is_one_that_home_assistant_takes(node):
    assert re.fullmatch(r"homeassistant/device/edged_[A-Za-z0-9_-]+/config", config_topic(node))


def rendered(entity, payload):
    """As Home Assistant does: ``value_json`` is the payload, undefined names are an error here."""
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(entity["value_template"])
    return template.render(value_json=json.loads(json.dumps(payload)))


def said(status=STATUS, host=SENSED):
    return health(structs.replace(status, host=host)) | {"ts": 1}


EXPECTED = {"state": "ok", "temperature": "61", "speed": "7.5", "queue": "3", "memory": "42.3",
            "degraded": "OFF", "under_voltage": "ON", "slowed": "ON", "memory_short": "OFF",
            "engine_failed": "OFF", "loaded": "ON"}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), EXPECTED.items())
def test_a_template_renders_what_the_health_says(config, name, value):
    assert rendered(config["cmps"][name], said()) == value


def test_every_entity_on_the_health_topic_has_been_tried(config):
    on_health = {name for name, one in config["cmps"].items() if one.get("state_topic") == TOPICS.health}
    assert on_health == set(EXPECTED)


def test_what_is_not_known_renders_as_none_which_is_unknown(config):
    bare = structs.replace(STATUS, decode_tps=None, memory=MemoryStatus(budget_bytes=0))
    payload = said(bare, BLIND)
    assert [rendered(config["cmps"][name], payload) for name in ("temperature", "speed", "memory")] == [
        "None"
    ] * 3
    assert rendered(config["cmps"]["under_voltage"], payload) == "OFF"
    assert rendered(config["cmps"]["slowed"], payload) == "OFF"


def test_trouble_shows(config):
    def condition(code):
        return Condition(code=code, severity="warning", message=code)

    bad = structs.replace(
        STATUS,
        engine=EngineState.UNLOADED,
        state=ServiceState.DEGRADED,
        conditions=(condition("memory_guard"), condition("engine_failed")),
    )
    shown = {name: rendered(config["cmps"][name], said(bad)) for name in EXPECTED}
    assert shown["state"] == "degraded"
    assert [shown[name] for name in ("degraded", "memory_short", "engine_failed")] == ["ON"] * 3
    assert shown["loaded"] == "OFF"
    assert set(config["cmps"]["state"]["options"]) == set(STATES)


def answer(text):
    return Finished(
        id="7", text=text, finish="stop", usage=Usage(prompt_tokens=1, completion_tokens=1),
        timings=Timings(queue_ms=0.0, first_ms=0.0, total_ms=0.0),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "Yes.", "ü" * 600, '"\\\n' * 200])
def test_the_last_answer_is_whole_and_its_state_short_enough(config, text):
    payload = json.loads(last_answer(answer(text), client="esp", op="chat", limit_bytes=131072))
    assert payload["text"] == text
    entity = config["cmps"]["last_answer"]
    assert rendered(entity, payload) == text[:255]
    assert entity["json_attributes_topic"] == TOPICS.last_answer


@pytest.mark.parametrize("text", ["a" * 5000, "\x01" * 5000, "€" * 5000])
def test_a_last_answer_that_is_too_long_is_cut(text):
    payload = last_answer(answer(text), client="esp", op="chat", limit_bytes=1000)
    assert len(payload) <= 1000
    assert text.startswith(json.loads(payload)["text"])


def test_the_model_is_the_one_of_the_info_topic(config):
    entity = config["cmps"]["model"]
    assert entity["state_topic"] == TOPICS.info
    assert rendered(entity, {"model": {"name": "qwen3.5-2b"}}) == "qwen3.5-2b"


def test_without_last_answers_there_is_no_entity_for_them():
    assert "last_answer" not in device_config(TOPICS, INFO, last_answer=False)["cmps"]
