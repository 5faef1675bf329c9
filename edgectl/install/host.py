"""What the operations of an installation act on: the service manager, and the service that answers."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.client.answer import Answer, Embeddings
from edgectl.errors import EdgeError, Unhealthy
from edged.api.errors import Busy, Loading, MemoryGuard, Thermal
from edged.api.status import EngineState, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from edgectl.client.edge_client import EdgeClient
    from edgectl.install.systemd import Systemd, UnitState

    Say = Callable[[str], None]
    Asked = TypeVar("Asked")

POLL_S = 0.5
ANSWER_S = 300.0  # the slowest supported model writes a token a second, and the prompt comes before
QUESTION = "Say hello in five words."
ANSWER_TOKENS = 24
PASSING = (Busy, Loading, MemoryGuard, Thermal)  # refusals of a box that is well and will answer soon
AGAIN_S = 5.0  # where the box does not say when


def heedless(say: Say) -> Say:
    """``say`` for work that goes on when nobody reads: a closed pipe, a dropped line, a full disk."""

    def told(text: str) -> None:
        with contextlib.suppress(OSError, SystemExit):  # SystemExit: how rich ends on a closed pipe
            say(text)

    return told


class Proof(Struct, frozen=True, kw_only=True):
    """One real answer, and what the box measured about itself right after it."""

    answer: Answer | Embeddings
    status: Status


class Host:
    """The real one; a test gives it another runner and another way to a client."""

    def __init__(
        self,
        systemd: Systemd,
        connect: Callable[[], EdgeClient],
        *,
        say: Say = lambda _text: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.systemd = systemd
        self._connect = connect
        self.say = heedless(say)
        self._sleep = sleep
        self.proof: Proof | None = None

    def wait_ready(self, timeout_s: float) -> None:
        """Return when the unit is ready. Raises Unhealthy with its last words when it is not going to be."""
        deadline = time.monotonic() + timeout_s
        said = ""
        while (state := self.systemd.state()).active != "active":
            if failure := self._failure(state):
                raise self._unhealthy(failure)
            if time.monotonic() > deadline:
                raise self._unhealthy(f"edged was not ready within {timeout_s:.0f} s")
            if state.status_text != said:
                said = state.status_text
                self.say(said)
            self._sleep(POLL_S)

    def prove(self, *, embeds: bool = False) -> None:
        """Ask the service one question, or for one vector, and keep its answer.

        Raises what the client raises, or Unhealthy.
        """
        with self._connect() as client:
            answer: Answer | Embeddings
            if embeds:
                answer = self._patiently(lambda: client.embed(QUESTION, timeout_s=ANSWER_S))
                if not any(map(any, answer.vectors)):
                    raise self._unhealthy("edged answered without a vector")
            else:
                answer = self._patiently(
                    lambda: client.generate(
                        QUESTION, max_tokens=ANSWER_TOKENS, temperature=0.0, timeout_s=ANSWER_S
                    )
                )
                if answer.usage.completion_tokens < 1:
                    raise self._unhealthy("edged answered without a single token")
            self.proof = Proof(answer=answer, status=client.status())

    def _patiently(self, ask: Callable[[], Asked]) -> Asked:
        """What ``ask`` gives; refusals that pass are waited out, ANSWER_S in all."""
        left_s = ANSWER_S
        while True:
            try:
                return ask()
            except PASSING as error:
                wait_s = max(POLL_S, error.retry_after_s or AGAIN_S)
                if wait_s > left_s:
                    raise
                left_s -= wait_s
                self.say(f"{error.message}; asking again in {wait_s:.0f} s")
                self._sleep(wait_s)

    def _failure(self, state: UnitState) -> str:
        """Why waiting is of no use; empty while it is."""
        failed = state.active == "failed" and not state.has_job  # with a job it is about to be started
        if failed or state.sub in {"auto-restart", "auto-restart-queued"} or state.restarts:
            return f"edged did not start ({state.result or state.sub})"
        if state.active == "inactive" and not state.has_job:
            return "edged stopped by itself"
        return self._engine_failure()

    def _engine_failure(self) -> str:
        try:
            with self._connect() as client:
                status = client.status()
        except EdgeError:
            return ""  # not listening yet
        if status.engine is not EngineState.BROKEN:
            return ""
        why = "; ".join(condition.message for condition in status.conditions if condition.severity == "error")
        return f"edged cannot load the model: {why}"

    def _unhealthy(self, message: str) -> Unhealthy:
        tail = self.systemd.log_tail()
        log = "".join(f"\n    {line}" for line in tail.splitlines())
        return Unhealthy(
            message + (f"; its last words:{log}" if log else ""),
            hint=f"`{' '.join(self.systemd.journal)}` shows the whole log",
        )
