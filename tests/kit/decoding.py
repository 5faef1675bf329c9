"""The real decode loop over a real model in this process, with every token and how sure it was."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_cpp import llama_cpp as api
from msgspec import Struct

from edged.api.requests import Message, Sampling
from edged.ipc.messages import Cancel, Done, Pause, Rejected, Resume, Shrink, Start, Token
from edged.worker.backends.base import Run
from edged.worker.backends.llama import LlamaBackend, load_llama
from edged.worker.loop import DecodeLoop
from edged.worker.template import TemplateError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edged.ipc.messages import EngineOptions
    from edged.worker.backends.base import Backend

GREEDY = Sampling(temperature=0.0)


class Drawn(Struct, frozen=True):
    """A token, and how far its logit was above the next one's."""

    token: int
    gap: float


class Watched:
    """A backend that keeps what was drawn after each prompt; everything else is the backend's."""

    def __init__(self, backend: LlamaBackend) -> None:
        self._backend = backend
        self._prompts: dict[int, tuple[int, ...]] = {}
        self.drawn: dict[tuple[int, ...], list[Drawn]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def sampler(self, sampling: Sampling, prompt: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        sampler = self._backend.sampler(sampling, prompt, *args, **kwargs)
        self._prompts[id(sampler)] = tuple(prompt)
        self.drawn[tuple(prompt)] = []
        return sampler

    def sample(self, sampler: Any, row: int, *args: Any) -> int:
        gap = self.gap(row)
        token = self._backend.sample(sampler, row, *args)
        self.drawn[self._prompts[id(sampler)]].append(Drawn(token, gap))
        return token

    def gap(self, row: int) -> float:
        """Between the two largest logits of ``row``."""
        logits = self.logits(row)
        second, first = np.partition(logits, -2)[-2:]
        return float(first - second)

    def logits(self, row: int) -> np.ndarray:
        """A copy of the logits of ``row``, which the last step returned."""
        backend = self._backend
        return np.ctypeslib.as_array(
            api.llama_get_logits_ith(backend._context, row), (backend._n_vocab,)
        ).copy()


def watched(path: Path, options: EngineOptions) -> Watched:
    """The model of ``path``; close it."""
    return Watched(load_llama(str(path), options, lambda: None))


def asked(backend: Watched, system: str, text: str) -> tuple[dict[str, Any], list[int]]:
    """The fields of a request, a conversation where the model knows how, and the tokens of its prompt."""
    said = (("system", system), ("user", text))
    messages = tuple(Message(role=role, content=words) for role, words in said if words)  # type: ignore[arg-type]
    try:
        return {"op": "chat", "messages": messages}, backend.render(messages, thinking=False)
    except TemplateError:
        prompt = f"{system} {text}"
        return {"op": "generate", "prompt": prompt}, backend.tokenize(prompt)


def tokens(drawn: Sequence[Drawn]) -> list[int]:
    return [item.token for item in drawn]


def prefill(backend: Backend, seq: int, tokens: Sequence[int], start: int = 0, *, chunk: int) -> int:
    """Evaluate ``tokens`` of a sequence ``chunk`` at a time; the row of the last one."""
    rows: list[int] = []
    for at in range(0, len(tokens), chunk):
        part = list(tokens[at : at + chunk])
        rows = backend.step([Run(seq, part, start + at, output=at + chunk >= len(tokens))])
    return rows[0]


def alone(
    backend: Watched, prompt: Sequence[int], count: int, *, chunk: int, sampling: Sampling = GREEDY
) -> list[Drawn]:
    """Up to ``count`` tokens drawn after ``prompt``, evaluated from nothing, one after the other."""
    sampler = backend.sampler(sampling, prompt)
    row = prefill(backend, 0, prompt, chunk=chunk)
    for position in range(len(prompt), len(prompt) + count):
        token = backend.sample(sampler, row)
        if backend.is_end(token) or position + 1 == len(prompt) + count:
            break
        (row,) = backend.step([Run(0, [token], position, output=True)])
    sampler.close()
    backend.forget(0)
    return backend.drawn.pop(tuple(prompt))


def behind(backend: Watched, prompt: Sequence[int], tokens: Sequence[int], *, chunk: int) -> list[float]:
    """How far the logit of each of ``tokens`` is behind the best one when nothing else is evaluated."""
    row = prefill(backend, 0, prompt, chunk=chunk)
    gaps = []
    for position, token in enumerate(tokens, len(prompt)):
        logits = backend.logits(row)
        gaps.append(float(logits.max() - logits[token]))
        if position + 1 < len(prompt) + len(tokens):
            (row,) = backend.step([Run(0, [token], position, output=True)])
    backend.forget(0)
    return gaps


class Stage:
    """One loop and everything it says, turn by turn."""

    def __init__(self, backend: Backend | Watched, options: EngineOptions, **kwargs: Any) -> None:
        self.backend = backend
        self.slots = options.slots
        self.inbox: SimpleQueue = SimpleQueue()
        self.said: list = []
        self.loop = DecodeLoop(
            backend,
            slots=options.slots,
            budget=options.ubatch,
            inbox=self.inbox,
            send=lambda *messages: self.said.extend(messages),
            progressed=lambda: None,
            busy=lambda _value: None,
            **kwargs,
        )

    def start(self, key: int, **fields: Any) -> None:
        fields.setdefault("sampling", GREEDY)
        fields.setdefault("max_tokens", 16)
        self.inbox.put(Start(key=key, **fields))

    def cancel(self, key: int) -> None:
        self.inbox.put(Cancel(key=key))

    def pause(self, key: int) -> None:
        self.inbox.put(Pause(key=key))

    def resume(self, key: int) -> None:
        self.inbox.put(Resume(key=key))

    def shrink(self, to_bytes: int) -> None:
        self.inbox.put(Shrink(to_bytes=to_bytes))

    def turn(self) -> None:
        self.loop.turn(wait=False)

    @property
    def idle(self) -> bool:
        return self.loop.idle and self.inbox.empty()

    def play(self, limit: int = 100_000) -> None:
        """Until nothing is left to do."""
        for _ in range(limit):
            self.turn()
            if self.idle:
                assert sorted(self.loop._slots.free) == list(range(self.slots))
                return
        raise AssertionError(f"the loop has work after {limit} turns")

    def text(self, key: int) -> str:
        return "".join(said.text for said in self.said if isinstance(said, Token) and said.key == key)

    def end(self, key: int) -> Done | Rejected:
        """The one terminal message of ``key``, which is the last about it."""
        about = [said for said in self.said if getattr(said, "key", None) == key]
        ends = [said for said in about if isinstance(said, Done | Rejected)]
        assert len(ends) == 1
        assert about[-1] is ends[0]
        return ends[0]
