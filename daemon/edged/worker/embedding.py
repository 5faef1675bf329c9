"""Makes a vector of each text of a request, in steps that read several texts side by side."""

from __future__ import annotations

import math
import time
from statistics import median
from typing import TYPE_CHECKING

from edged.ipc.messages import Measured
from edged.worker.backends.base import Pooling, Run
from edged.worker.measure import SHORTEST_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.ipc.messages import Measure, Start
    from edged.worker.backends.base import Backend


class EmbeddingError(Exception):
    """A request that this model cannot answer; ``code`` as in edged.api.errors, the text for the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Embedding:
    """One request at work. ``vectors`` are complete, and of length 1, when it is ``done``.

    A step takes at most ``budget`` tokens. Raises EmbeddingError for a text that is too long.
    """

    def __init__(
        self, backend: Backend, pooling: Pooling, order: Start, *, budget: int, deadline: float = math.inf
    ) -> None:
        self._backend = backend
        self._pooling = pooling
        self._budget = budget
        self._texts = [backend.tokenize(text, control=False) for text in order.inputs]
        for number, tokens in enumerate(self._texts):
            if len(tokens) > pooling.tokens:
                raise EmbeddingError("too_large", too_long(number, len(tokens), pooling))
            if not tokens:
                raise EmbeddingError("bad_request", f"inputs[{number}] has no tokens")
        self._reading: list[int] = []  # texts at work, each in the sequence of its place here
        self._position = [0] * len(self._texts)
        self.key = order.key
        self.priority = order.priority
        self.deadline = deadline
        self.prompt_tokens = sum(map(len, self._texts))
        self.vectors: list[tuple[float, ...]] = []

    @property
    def done(self) -> bool:
        return len(self.vectors) == len(self._texts)

    def step(self) -> None:
        """Read some more. Raises StepError."""
        if not self._reading:
            self._reading = self._next_texts()
        runs = self._runs()
        if runs and self._pooling.piecewise:
            self._backend.step(runs)
            return
        ends = [
            Run(seq, self._texts[text][self._position[text] :], self._position[text], output=True, every=True)
            for seq, text in enumerate(self._reading)
        ]
        self.vectors += [normalised(one) for one in self._backend.embed(ends)]
        self.close()

    def close(self) -> None:
        """Free the sequences."""
        for seq in range(len(self._reading)):
            self._backend.forget(seq)
        self._reading = []

    def _next_texts(self) -> list[int]:
        """As many as may be read side by side; those read in one piece must fit one step together."""
        first = len(self.vectors)
        chosen: list[int] = []
        left = self._budget
        for text in range(first, min(first + self._pooling.texts, len(self._texts))):
            left -= 0 if self._pooling.piecewise else len(self._texts[text])
            if chosen and left < 0:
                break
            chosen.append(text)
        return chosen

    def _runs(self) -> list[Run]:
        """What comes before the last tokens of the texts at work, as much as one step takes."""
        runs = []
        left = self._budget
        for seq, text in enumerate(self._reading):
            start = self._position[text]
            part = self._texts[text][start:-1][:left]
            if part and self._pooling.piecewise:
                runs.append(Run(seq, part, start, output=False))
                self._position[text] += len(part)
                left -= len(part)
        return runs


def vector_of(backend: Backend, pooling: Pooling, tokens: Sequence[int]) -> list[float]:
    """The vector of one text that fits a step, alone on the engine. Raises StepError."""
    begin = len(tokens) - 1 if pooling.piecewise else 0
    if begin:
        backend.step([Run(0, list(tokens[:begin]), 0, output=False)])
    (vector,) = backend.embed([Run(0, list(tokens[begin:]), begin, output=True, every=True)])
    backend.forget(0)
    return vector


def measure_embedding(
    backend: Backend, pooling: Pooling, order: Measure, *, budget: int, progressed: Callable[[], None]
) -> Measured:
    """Time texts as long as one step takes, ``order.prefill_tokens`` in all, twice at least.

    Nothing is decoded here, so that reading counts as decoding, too. ``order.threads`` stay in use.
    """
    if order.threads:
        backend.use_threads(order.threads)
    count = min(budget, pooling.tokens)
    text = (backend.tokenize("a") or [0])[-1:] * count
    times_s = []
    for _ in range(max(2, order.prefill_tokens // count)):
        before = time.monotonic()
        vector_of(backend, pooling, text)
        times_s.append(time.monotonic() - before)
        progressed()
    step_s = max(median(times_s), SHORTEST_S)
    return Measured(prefill_tps=count / step_s, decode_tps=count / step_s, step_ms=step_s * 1000)


def normalised(vector: Sequence[float]) -> tuple[float, ...]:
    """``vector`` with Euclidean length 1; one of zeros stays as it is."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return tuple(value / length for value in vector) if length > 0 else tuple(vector)


def too_long(number: int, count: int, pooling: Pooling) -> str:
    key = "model.context" if pooling.piecewise else "model.ubatch and model.context"
    return (
        f"inputs[{number}] has {count} tokens; this box embeds at most {pooling.tokens} of a text ({key}, "
        "and what the model was made for)"
    )
