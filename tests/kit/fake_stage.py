"""The decode loop over the fake engine, turn by turn, with everything it says and everything it evaluates."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from edged.api.requests import Message, Sampling
from edged.ipc.messages import Cancel, Done, EngineOptions, Pause, Rejected, Resume, Shrink, Start, Token
from edged.worker.backends.fake import FakeBackend, Script
from edged.worker.loop import DecodeLoop

if TYPE_CHECKING:
    from edged.worker.kept import KeptPrefixes
    from edged.worker.speculate import StepCost


class Stage:
    """One loop. ``now`` is its clock; ``evaluated`` counts tokens, ``steps`` how often it computed."""

    def __init__(
        self,
        *,
        slots: int = 4,
        ubatch: int = 16,
        context: int = 256,
        cache_bytes: int = 0,
        systems: tuple[str, ...] = (),
        kept: KeptPrefixes | None = None,
        cost: StepCost | None = None,
        **script: Any,
    ) -> None:
        options = EngineOptions(context=context, slots=slots, ubatch=ubatch, threads=1, speculate="on")
        self.backend = FakeBackend(Script(**script), options)
        self.inbox: SimpleQueue = SimpleQueue()
        self.said: list = []
        self.busy: list[bool] = []
        self.steps = 0
        self.evaluated = 0
        self.now = 0.0
        self.slots = slots
        self.loop = DecodeLoop(
            self.backend,
            slots=slots,
            budget=ubatch,
            inbox=self.inbox,
            send=lambda *messages: self.said.extend(messages),
            progressed=self._progressed,
            busy=self.busy.append,
            cache_bytes=cache_bytes,
            systems=systems,
            kept=kept,
            cost=cost,
            clock=lambda: self.now,
        )
        step = self.backend.step

        def counted(runs: Any) -> list[int]:
            self.evaluated += sum(len(run.tokens) for run in runs)
            return step(runs)

        self.backend.step = counted  # type: ignore[method-assign]

    def _progressed(self) -> None:
        self.steps += 1

    def start(
        self, key: int, text: str, *, system: str = "", turns: tuple[str, ...] = (), **fields: Any
    ) -> None:
        """A chat: ``system`` message, earlier ``turns`` (question, answer, …), then the question ``text``."""
        said = [Message(role="system", content=system)] if system else []
        said += [
            Message(role="assistant" if number % 2 else "user", content=turn)
            for number, turn in enumerate(turns)
        ]
        fields.setdefault("max_tokens", 200)
        fields.setdefault("sampling", Sampling())
        self.inbox.put(Start(key=key, messages=(*said, Message(role="user", content=text)), **fields))

    def cancel(self, key: int) -> None:
        self.inbox.put(Cancel(key=key))

    def pause(self, key: int) -> None:
        self.inbox.put(Pause(key=key))

    def resume(self, key: int) -> None:
        self.inbox.put(Resume(key=key))

    def shrink(self, to_bytes: int) -> None:
        self.inbox.put(Shrink(to_bytes=to_bytes))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn(wait=False)

    def play(self) -> None:
        """Until nothing is left to do; then every slot and every cell must be free again."""
        for _ in range(100_000):
            self.turn()
            if self.loop.idle and self.inbox.empty():
                break
        assert self.loop.idle
        assert sorted(self.loop._slots.free) == list(range(self.slots))
        assert not self.backend._cells

    def ask(self, key: int, text: str, **fields: Any) -> str:
        """The whole answer to one chat."""
        self.start(key, text, **fields)
        self.play()
        return self.text(key)

    def text(self, key: int) -> str:
        return "".join(
            message.text for message in self.said if isinstance(message, Token) and message.key == key
        )

    def ended(self, key: int) -> bool:
        return any(isinstance(message, Done | Rejected) and message.key == key for message in self.said)

    def end(self, key: int) -> Any:
        """The one terminal message of ``key``, which is the last about it."""
        about = [message for message in self.said if message.key == key]
        ends = [message for message in about if isinstance(message, Done | Rejected)]
        assert len(ends) == 1
        assert about[-1] is ends[0]
        return ends[0]

    def cached(self, key: int) -> int:
        """Tokens of its prompt that were not evaluated for it."""
        return self.end(key).usage.cached_tokens
