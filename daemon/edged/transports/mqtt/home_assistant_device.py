"""The box as a device of Home Assistant: one discovery message with all its entities (pure)."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edged.api.status import Info
    from edged.transports.mqtt.topics import Topics

PREFIX = "homeassistant"
STATES = ("ok", "degraded", "loading", "overloaded")
MOST_STATE_CHARS = 255  # of any entity's state, in Home Assistant

_MEMORY = (
    "{{ (100 * (value_json.mem.anon + value_json.mem.swap) / value_json.mem.limit) | round(1)"
    " if value_json.mem.limit else none }}"
)
_SLOWED = (
    "{{ 'ON' if ('throttled' in f or 'frequency capped' in f or 'soft temperature limit' in f) else 'OFF' }}"
)
# Entity → what the platform needs beside name, unique_id and platform; on the health topic unless it says
# otherwise. A value that is not known renders as None, which Home Assistant shows as unknown.
SENSORS: dict[str, dict[str, Any]] = {
    "state": {"name": "State", "device_class": "enum", "options": list(STATES),
              "value_template": "{{ value_json.state }}"},
    "temperature": {"name": "Temperature", "device_class": "temperature", "unit_of_measurement": "°C",
                    "state_class": "measurement", "value_template": "{{ value_json.temp_c }}"},
    "speed": {"name": "Speed", "unit_of_measurement": "tok/s", "state_class": "measurement",
              "icon": "mdi:speedometer", "value_template": "{{ value_json.tok_s }}"},
    "queue": {"name": "Queue", "state_class": "measurement", "icon": "mdi:tray-full",
              "value_template": "{{ value_json.queue }}"},
    "memory": {"name": "Memory", "unit_of_measurement": "%", "state_class": "measurement",
               "icon": "mdi:memory", "value_template": _MEMORY},
}  # fmt: skip
BINARY_SENSORS: dict[str, dict[str, Any]] = {
    "degraded": {"name": "Degraded",
                 "value_template": "{{ 'ON' if value_json.state == 'degraded' else 'OFF' }}"},
    "under_voltage": {"name": "Under-voltage",
                      "value_template": "{% set f = value_json.throttled or [] %}"
                                        "{{ 'ON' if 'under-voltage' in f else 'OFF' }}"},
    "slowed": {"name": "Slowed by heat or power",
               "value_template": "{% set f = value_json.throttled or [] %}" + _SLOWED},
    "memory_short": {"name": "Memory short",
                     "value_template": "{{ 'ON' if 'memory_guard' in value_json.conditions else 'OFF' }}"},
    "engine_failed": {"name": "Engine failed",
                      "value_template": "{{ 'ON' if 'engine_failed' in value_json.conditions else 'OFF' }}"},
}  # fmt: skip
BUTTONS: dict[str, dict[str, Any]] = {
    "unload": {"name": "Unload the model", "icon": "mdi:eject"},
    "reload": {"name": "Reload the model", "device_class": "restart"},
}


def object_id(node: str) -> str:
    """What names the box in Home Assistant, of A-Z a-z 0-9 _ - only; different for different nodes."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", node)
    return (
        f"edged_{plain}"
        if plain == node
        else f"edged_{plain}_{hashlib.sha256(node.encode()).hexdigest()[:6]}"
    )


def config_topic(node: str) -> str:
    return f"{PREFIX}/device/{object_id(node)}/config"


def device_config(topics: Topics, info: Info, *, last_answer: bool) -> dict[str, Any]:
    """The discovery message of this box (home-assistant.io/integrations/mqtt, "Device discovery payload")."""
    ours = object_id(topics.node)
    components: dict[str, dict[str, Any]] = {}
    for name, options in SENSORS.items():
        components[name] = {"p": "sensor", "state_topic": topics.health, **options}
    components["model"] = {
        "p": "sensor",
        "name": "Model",
        "icon": "mdi:brain",
        "entity_category": "diagnostic",
        "state_topic": topics.info,
        "value_template": "{{ value_json.model.name }}",
    }
    for name, options in BINARY_SENSORS.items():
        components[name] = {
            "p": "binary_sensor",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.health,
            **options,
        }
    components["loaded"] = {
        "p": "binary_sensor",
        "name": "Model loaded",
        "device_class": "running",
        "entity_category": "diagnostic",
        "state_topic": topics.health,
        "value_template": "{{ 'ON' if value_json.loaded else 'OFF' }}",
    }
    for name, options in BUTTONS.items():
        command = {"command_topic": topics.model, "payload_press": name, "entity_category": "config"}
        components[name] = {"p": "button", **command, **options}
    if last_answer:
        components["last_answer"] = {
            "p": "sensor",
            "name": "Last answer",
            "icon": "mdi:message-text",
            "state_topic": topics.last_answer,
            "value_template": f"{{{{ value_json.text[:{MOST_STATE_CHARS}] }}}}",
            "json_attributes_topic": topics.last_answer,
        }
    for name, component in components.items():
        component["unique_id"] = f"{ours}_{name}"
    return {
        "dev": {
            "identifiers": [ours],
            "name": f"edged {topics.node}",
            "manufacturer": "edged",
            "model": info.board or "edged",
            "sw_version": info.version,
        },
        "o": {"name": "edged", "sw_version": info.version},
        "availability_topic": topics.status,
        "qos": 1,
        "cmps": components,
    }
