"""The loop of a worker that is loaded for embeddings: one request after the other, step by step."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from edged.api.errors import shown
from edged.api.events import Usage
from edged.ipc.messages import Cancel, Done, Measure, Rejected, Start
from edged.worker.embedding import Embedding, EmbeddingError, measure_embedding
from edged.worker.inbox import Inbox
from edged.worker.refused import WHY_CHARS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

    from edged.ipc.messages import FromWorker, ToLoop
    from edged.worker.backends.base import Backend, Pooling


class EmbeddingLoop:
    """As :class:`edged.worker.loop.DecodeLoop`, for a backend with ``pooling``; the urgent ones go first."""

    def __init__(
        self,
        backend: Backend,
        pooling: Pooling,
        *,
        budget: int,
        inbox: SimpleQueue[ToLoop],
        send: Callable[[FromWorker], None],
        progressed: Callable[[], None],
        busy: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._pooling = pooling
        self._budget = budget
        self._inbox = Inbox(inbox, busy)
        self._send = send
        self._progressed = progressed
        self._busy = busy
        self._clock = clock
        self._jobs: list[Embedding] = []  # the one at work is the first
        self._measures: deque[Measure] = deque()

    @property
    def idle(self) -> bool:
        """Nothing to do before another message comes."""
        return not (self._jobs or self._measures)

    def run(self) -> NoReturn:
        """Serve for ever; the process ends when the supervisor hangs up."""
        while True:
            self.turn(wait=self.idle)

    def turn(self, *, wait: bool) -> None:
        """Take in messages (blocking for one when ``wait``), then compute one step."""
        for message in self._inbox.messages(wait=wait):
            self._take(message)
        self._expire()
        self._busy(not self.idle)
        if self._jobs:
            self._step(self._jobs[0])
            self._progressed()
        elif self._measures:
            self._send(
                measure_embedding(
                    self._backend,
                    self._pooling,
                    self._measures.popleft(),
                    budget=self._budget,
                    progressed=self._progressed,
                )
            )

    def _take(self, message: ToLoop) -> None:
        """The other messages are about caches and slow readers, of which there are none."""
        match message:
            case Start():
                self._read(message)
            case Measure():
                self._measures.append(message)
            case Cancel():
                self._end(message.key, "cancelled", "the request was cancelled")

    def _read(self, order: Start) -> None:
        if order.op != "embed":
            why = f"this box is loaded for embeddings (model.embeddings); it takes embed, not {order.op}"
            self._reject(order.key, "bad_request", why)
            return
        deadline = self._clock() + (order.ttl_s or math.inf)
        try:
            job = Embedding(self._backend, self._pooling, order, budget=self._budget, deadline=deadline)
        except EmbeddingError as error:
            self._reject(order.key, error.code, str(error))
            return
        except Refused as error:
            self._reject(order.key, "bad_request", str(error))
            return
        behind = next((n for n, one in enumerate(self._jobs) if n and one.priority < job.priority), None)
        self._jobs.insert(len(self._jobs) if behind is None else behind, job)

    def _step(self, job: Embedding) -> None:
        job.step()
        if job.done:
            self._jobs.remove(job)
            usage = Usage(prompt_tokens=job.prompt_tokens, completion_tokens=0)
            vectors = tuple(job.vectors)
            self._send(Done(key=job.key, finish="stop", usage=usage, decode_ms=0.0, embeddings=vectors))

    def _expire(self) -> None:
        now = self._clock()
        for job in [job for job in self._jobs if job.deadline <= now]:
            self._end(job.key, "expired", "the request's time to live ran out before its answer was complete")

    def _end(self, key: int, code: str, why: str) -> None:
        """End a request without an answer; one that is over is left alone."""
        for job in [job for job in self._jobs if job.key == key]:
            job.close()
            self._jobs.remove(job)
            self._reject(key, code, why)

    def _reject(self, key: int, code: str, why: str) -> None:
        self._send(Rejected(key=key, code=code, message=shown(why, WHY_CHARS)))
