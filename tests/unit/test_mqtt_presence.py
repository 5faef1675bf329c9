"""Health is told when it is news: trouble at once, figures in time, everything once a minute."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from edged.api.status import Condition, EngineState, HostStatus, ServiceState, Stalls
from edged.transports.mqtt.presence import HEALTH_INTERVAL_S, HEALTH_REPEAT_S, Presence
from edged.transports.mqtt.topics import Topics
from tests.integration.scripted_service import ScriptedService


class Watched(ScriptedService):
    """Its status is what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = super().status()

    def status(self):
        return self.now

    def change(self, **fields) -> None:
        self.now = structs.replace(self.now, **fields)


class Wire:
    """A connection that takes everything, or nothing."""

    def __init__(self) -> None:
        self.up = True
        self.said: list[dict] = []

    def send(self, topic, payload, *, retain=False):
        if self.up:
            assert (topic, retain) == ("edged/box/health", True)
            self.said.append(json.loads(payload))
        return self.up


class Scene:
    def __init__(self) -> None:
        self.service, self.wire, self.clock_s = Watched(), Wire(), 1000.0
        self.sense(50)
        self.presence = Presence(
            Topics("edged", "box"),
            self.service,
            clock=lambda: self.clock_s,
            wall=lambda: 7.9,
        )

    def sense(self, celsius: float) -> None:
        calm = Stalls(some_percent=0.0, full_percent=0.0, some_s=0.0, full_s=0.0)
        self.service.change(host=HostStatus(temperature_c=celsius, throttled=(), stalls={"memory": calm}))

    def look(self, after_s: float = 0.0) -> list[dict]:
        """What is said when ``after_s`` have gone by."""
        self.clock_s += after_s
        before = len(self.wire.said)
        self.presence.tell_health(self.wire)
        return self.wire.said[before:]


@pytest.fixture
def scene():
    return Scene()


def test_the_health_is_complete(scene):
    (said,) = scene.look()
    assert said == {
        "state": "ok", "queue": 0, "running": 0, "loaded": True, "tok_s": 4.6, "temp_c": 50, "throttled": [],
        "mem": {"anon": 0, "swap": 0, "limit": 100, "psi": 0.0}, "conditions": [], "ts": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"state": ServiceState.LOADING}, "loading"),
        ({"state": ServiceState.DEGRADED}, "degraded"),
        ({"queue": 6, "running": 2}, "overloaded"),
        ({"conditions": (Condition(code="tuning", severity="warning", message="m"),)}, "degraded"),
        ({"engine": EngineState.UNLOADED}, "ok"),
    ],
)
def test_trouble_is_told_at_the_next_look_and_so_is_its_end(scene, fields, state):
    before = scene.service.now
    scene.look()
    scene.service.change(**fields)
    (said,) = scene.look(1.0)
    assert said["state"] == state
    assert scene.look(1.0) == []
    scene.service.now = before
    (said,) = scene.look(1.0)
    assert said["state"] == "ok"


def test_figures_that_change_wait_for_their_turn(scene):
    scene.look()
    said = []
    for second in range(1, 31):
        scene.sense(50 + second)
        scene.service.change(queue=second % 3)
        said += scene.look(1.0)
    assert len(said) == 30 // HEALTH_INTERVAL_S


def test_what_does_not_change_is_repeated_once_a_minute(scene):
    scene.look()
    said = [one for _ in range(int(2 * HEALTH_REPEAT_S)) for one in scene.look(1.0)]
    assert len(said) == 2


def test_a_new_connection_hears_it_at_once_and_what_was_not_sent_is_said_again(scene):
    scene.look()
    scene.presence.forget()
    assert len(scene.look(1.0)) == 1
    scene.presence.forget()
    scene.wire.up = False
    assert scene.look(1.0) == []
    scene.wire.up = True
    assert len(scene.look(1.0)) == 1
