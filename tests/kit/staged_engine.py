"""An engine in the test's own process: the real decode loop over the scripted engine, one step when told.

It has of `edged.engine.supervisor.EngineSupervisor` what the service uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from edged.api.status import EngineState
from edged.ipc.messages import Cancel, Done, Pause, Rejected, Resume, Token
from tests.kit.fake_stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.api.config import Config
    from edged.engine.in_flight import Sink
    from edged.ipc.messages import Start

LEFT_OUT: dict[str, Any] = {
    "failing": False, "broken": False, "tuning": "", "last_error": "", "loaded": None, "memory": None,
    "worker_pid": None, "restarts": 0,
}  # fmt: skip


class StagedEngine:
    """``step`` computes once and says what came of it; ``crash`` loses everything in flight."""

    def __init__(
        self, config: Config, on_change: Callable[[], None], *, clock: Callable[[], float], **script: Any
    ) -> None:
        self.config = config
        self._on_change = on_change
        self._clock = clock
        self._script = script
        self._sinks: dict[int, Sink] = {}
        self._paused: set[int] = set()
        self._keys = 0
        self.state = EngineState.READY
        self.steps = 0
        self._stage = self._new()
        vars(self).update(LEFT_OUT)

    @property
    def free_slots(self) -> int:
        if self.state is not EngineState.READY:
            return 0
        return max(0, self.config.model.slots - len(self._sinks) + len(self._paused))

    @property
    def running(self) -> int:
        return len(self._sinks)

    def start(self, order: Start, sink: Sink) -> int:
        self._keys += 1
        self._sinks[self._keys] = sink
        self._stage.inbox.put(structs.replace(order, key=self._keys))
        return self._keys

    def cancel(self, key: int) -> None:
        if key in self._sinks:
            self._stage.inbox.put(Cancel(key=key))

    def pause(self, key: int) -> None:
        if key in self._sinks:
            self._paused.add(key)
            self._stage.inbox.put(Pause(key=key))
            self._on_change()

    def resume(self, key: int) -> None:
        if key in self._sinks:
            self._paused.discard(key)
            self._stage.inbox.put(Resume(key=key))

    def step(self) -> None:
        """One turn of the decode loop, and everything it says."""
        self.steps += 1
        self._stage.now = self._clock()
        self._stage.turn()
        said, self._stage.said[:] = list(self._stage.said), []
        for message in said:
            sink = self._sinks.get(message.key)
            if sink is None:
                continue
            if isinstance(message, Done | Rejected):
                del self._sinks[message.key]
                self._paused.discard(message.key)
            if isinstance(message, Token | Done | Rejected):
                sink.message(message)
            if isinstance(message, Done | Rejected):
                self._on_change()

    def crash(self) -> None:
        """The worker is gone; a new one is there when this returns."""
        self.state = EngineState.KILLING
        sinks, self._sinks = self._sinks, {}
        self._paused.clear()
        for sink in sinks.values():
            sink.lost("the engine process ended")
        self._stage = self._new()
        self.state = EngineState.READY
        self._on_change()

    def _new(self) -> Stage:
        model = self.config.model
        return Stage(slots=model.slots, ubatch=model.ubatch, context=model.context, **self._script)
