"""System messages of the configuration are read before anybody asks, and never in anybody's way."""

from __future__ import annotations

import pytest

from edged.ipc.messages import Measure, Measured
from tests.kit.fake_stage import Stage

CACHE = 1 << 20
SYSTEMS = (
    "You watch a pump. Say in one word how it does, or which part of it needs a person." * 2,
    "You watch a door, and tell apart those who come from those who go, and cats from both." * 2,
    "Too short.",
)


def head(system: str) -> int:
    return len(f"<system>{system}<user>")


def stage(**fields) -> Stage:
    return Stage(context=1024, **{"cache_bytes": CACHE, "systems": SYSTEMS, **fields})


@pytest.mark.parametrize("recurrent", [False, True])
def test_what_the_configuration_names_is_read_before_the_first_request(recurrent):
    box = stage(recurrent=recurrent)
    box.play()
    # With attention alone the second goes on where it parts from the first.
    alike = 0 if recurrent else len("<system>You watch a ")
    assert box.evaluated == head(SYSTEMS[0]) + head(SYSTEMS[1]) - alike
    for key, system in enumerate(SYSTEMS[:2]):
        box.ask(key, f"question {key}", system=system)
        assert box.cached(key) == head(system)


def test_reading_ahead_counts_as_work_until_it_is_done():
    box = stage()
    box.turn()
    assert box.busy[-1] is True
    assert box.steps == 1
    box.play()
    box.turn()
    assert box.busy[-1] is False


@pytest.mark.parametrize("turns", range(1, 24, 2))
@pytest.mark.parametrize("slots", [1, 2])
def test_a_request_interrupts_it_and_takes_what_is_read_so_far(turns, slots):
    box = stage(slots=slots)
    box.turn(turns)
    read = box.evaluated
    box.start(1, "hello", system=SYSTEMS[0], max_tokens=2)
    box.turn()
    assert len(box.loop._slots.active) == 1
    box.play()
    assert box.text(1) == "ec"
    if turns * 16 < head(SYSTEMS[0]):
        assert box.cached(1) == (read if read >= 32 else 0)
    box.ask(2, "next", system=SYSTEMS[1])
    assert box.cached(2) == head(SYSTEMS[1])


def test_nothing_is_read_ahead_without_a_cache_or_while_it_is_shrunk():
    box = stage(cache_bytes=0)
    box.play()
    assert box.evaluated == 0
    box = stage()
    box.turn(3)
    box.shrink(0)
    box.turn()
    before = box.evaluated
    assert box.loop.idle
    box.shrink(CACHE)
    box.play()
    assert box.evaluated > before
    assert box.loop._sharing.store.held_bytes > 0


def test_what_does_not_fit_beside_the_others_does_not_push_them_out():
    box = stage(cache_bytes=8 * head(SYSTEMS[0]) + 100)
    box.play()
    box.ask(1, "hello", system=SYSTEMS[0])
    assert box.cached(1) == head(SYSTEMS[0])


def test_a_measurement_does_not_wait_for_it():
    box = stage(slots=1)
    box.turn(2)
    box.inbox.put(Measure(depth=32, prefill_tokens=32, decode_steps=2))
    box.turn()
    assert isinstance(box.said[-1], Measured)
    box.play()
    assert len(box.loop._sharing.store) == 2
