"""System messages of the configuration are read before anybody asks, and never in anybody's way."""

from __future__ import annotations

import pytest

from edged.ipc.messages import Measure, Measured
from tests.kit.fake_stage import Stage

CACHE = 1 << 20
SYSTEMS = (
    "You watch a pump. Say in one word how it does, or which part of it needs a person." * 2,
    "You watch a pump. Say in one word who comes and who goes, and tell cats from both of them." * 2,
    "Too short.",
)


def head(system: str) -> int:
    return len(f"<system>{system}<user>")


def stage(**fields) -> Stage:
    return Stage(**{"context": 1024, "cache_bytes": CACHE, "systems": SYSTEMS, **fields})


@pytest.mark.parametrize("recurrent", [False, True])
def test_what_the_configuration_names_is_read_before_the_first_request(recurrent):
    box = stage(recurrent=recurrent)
    box.play()
    # With attention alone the second goes on where it parts from the first.
    alike = 0 if recurrent else len("<system>You watch a pump. Say in one word ")
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


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_what_leaves_no_room_for_a_request_is_not_read(spare):
    box = stage(context=head(SYSTEMS[0]) - spare, systems=SYSTEMS[:1])
    box.play()
    assert (box.evaluated > 0) is (spare < 0)
    assert not box.loop._warming.pending


def test_what_was_let_go_of_is_read_again_when_there_is_room_again():
    box = stage()
    box.play()
    box.shrink(0)
    box.play()
    before = box.evaluated
    box.shrink(CACHE)
    box.play()
    assert box.evaluated > before
    for key, system in enumerate(SYSTEMS[:2]):
        box.ask(key, f"question {key}", system=system)
        assert box.cached(key) == head(system)


def test_who_goes_on_takes_the_sequence_from_it_like_who_begins():
    box = stage(slots=4, systems=())
    for key in range(3):
        box.start(key, "x" * 60)
    box.turn(20)
    for key in range(3):
        box.pause(key)
    box.turn()
    box.loop._warming._systems.append(SYSTEMS[0])
    box.turn(2)  # reads in the one sequence that is free
    assert 3 in box.backend._cells
    box.cancel(1)
    box.resume(0)
    box.resume(2)
    box.play()
    assert (box.text(0), box.text(2)) == ("echo: " + "x" * 60, "echo: " + "x" * 60)
    box.ask(3, "hello", system=SYSTEMS[0])
    assert (box.text(3), box.cached(3)) == ("echo: hello", head(SYSTEMS[0]))
