"""The engine's table of states is complete, and the mover keeps to it."""

from __future__ import annotations

import itertools

import pytest

from edged.api.status import EngineState
from edged.engine.states import ALLOWED, EngineStates

PATHS = {
    EngineState.ABSENT: [],
    EngineState.SPAWNING: [EngineState.SPAWNING],
    EngineState.LOADING: [EngineState.SPAWNING, EngineState.LOADING],
    EngineState.READY: [EngineState.SPAWNING, EngineState.LOADING, EngineState.READY],
    EngineState.RECYCLING: [*list(EngineState)[1:4], EngineState.RECYCLING],
    EngineState.KILLING: [EngineState.SPAWNING, EngineState.KILLING],
    EngineState.BACKOFF: [EngineState.SPAWNING, EngineState.KILLING, EngineState.BACKOFF],
    EngineState.BROKEN: [EngineState.SPAWNING, EngineState.KILLING, EngineState.BROKEN],
    EngineState.UNLOADED: [EngineState.SPAWNING, EngineState.KILLING, EngineState.UNLOADED],
}


def at(state: EngineState, heard: list) -> EngineStates:
    """A machine that was led to ``state``."""
    states = EngineStates(lambda new, why: heard.append((new, why)))
    for step in PATHS[state]:
        states.move(step, "on the way")
    assert states.now is state
    heard.clear()
    return states


def test_every_state_has_a_row_a_way_in_and_a_way_out():
    assert set(ALLOWED) == set(EngineState)
    assert set().union(*ALLOWED.values()) == set(EngineState)
    assert all(ALLOWED.values())


@pytest.mark.parametrize(("old", "new"), list(itertools.product(EngineState, EngineState)))
def test_a_move_is_told_when_allowed_and_refused_without_effect_when_not(old, new):
    heard: list = []
    states = at(old, heard)
    if new in ALLOWED[old]:
        states.move(new, "why")
        assert (states.now, heard) == (new, [(new, "why")])
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            states.move(new, "why")
        assert (states.now, heard) == (old, [])


@pytest.mark.parametrize("state", [s for s in EngineState if s is not EngineState.ABSENT])
def test_the_daemon_can_stop_the_engine_from_every_state(state):
    assert EngineState.ABSENT in ALLOWED[state] or EngineState.KILLING in ALLOWED[state]
