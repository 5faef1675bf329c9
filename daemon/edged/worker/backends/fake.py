"""An engine whose every move is written in a small TOML file, for producing faults on demand.

It speaks bytes as tokens and answers with an echo of the last user message.
It keeps the same books as a real engine (positions must follow each other,
sequences must fit) so that a loop that would break llama.cpp breaks here too.
"""

from __future__ import annotations

import math
import os
import signal
import time
import tomllib
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from edged.api.status import MemoryParts
from edged.host.procfs import anon_bytes
from edged.worker.backends.base import LoadError, Pooling, StateError, StepError, new_state
from edged.worker.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.requests import Message, Sampling, Tool
    from edged.ipc.messages import EngineOptions
    from edged.worker.backends.base import Allows, Run, Sampler, State
    from edged.worker.forms.calls import CallForm

END = 256
DIMENSIONS = 8  # of an embedding
# Said in place of a scripted token that is not allowed. What closes comes first, so that there is an end.
INSTEAD: tuple[int, ...] = (END, *b'"}]', *(byte for byte in range(256) if byte not in b'"}]'))
SURE = 0.9  # the probability of a scripted token
TURN_END = "</>"
STATE_MAGIC = 0x66616B65
Phase = Literal["load", "prefill", "decode"]


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """What the fake does; times in seconds.

    ``crash_signal`` strikes in ``crash_phase`` after ``crash_after`` steps of it,
    only while ``crash_file`` exists (when named), and only with repacking when
    ``crash_with_repack``; signal "EXIT" leaves with status 0, "HANG" never returns,
    "GARBAGE" writes bytes that are no message. While ``neighbour_file`` exists, a step takes ``neighbour_s``
    more for each thread but the first.
    """

    answer: str = ""  # empty: "echo: " and the last user message
    load_s: float = 0.0
    load_error: str = ""
    step_s: float = 0.0
    neighbour_file: str = ""
    neighbour_s: float = 0.0
    crash_signal: str = ""
    crash_phase: Phase = "decode"
    crash_after: int = 0
    crash_file: str = ""
    crash_with_repack: bool = False
    leak_mib: int = 0  # anonymous memory touched and kept at each finished request
    state_mib: int = 0  # a saved sequence takes this much beside its tokens
    recurrent: bool = False  # a sequence cannot be cut back
    draft_tokens: int = 0
    template: Literal["plain", "chat", "thinking"] = "plain"  # thinking: history drops how an answer began


class FakeBackend:
    """See :class:`edged.worker.backends.base.Backend`."""

    engine = "fake 1"
    model_name = "fake"
    call_form: CallForm = "hermes"

    def __init__(self, script: Script, options: EngineOptions) -> None:
        self.context = options.context
        self.draft_tokens = 0 if options.speculate == "off" else script.draft_tokens
        self.rows = options.slots + self.draft_tokens
        self.memory = MemoryParts(base_bytes=anon_bytes(os.getpid()))
        self.pooling = (
            Pooling("last", piecewise=True, texts=options.slots, tokens=options.context)
            if options.embeddings
            else None
        )
        self.can_truncate = not script.recurrent
        self._script = script
        self._options = options
        self.threads = options.threads
        self._cells: dict[int, list[int]] = {}
        self._steps: dict[Phase, int] = {"load": 0, "prefill": 0, "decode": 0}
        self._rows: list[tuple[int, int]] = []  # sequence and cells up to the row
        self._samplers: list[FakeSampler] = []
        self._leaked: list[bytearray] = []

    def render(self, messages: Sequence[Message], *, thinking: bool, tools: Sequence[Tool] = ()) -> list[int]:
        plain = self._script.template == "plain"
        end = "" if plain else TURN_END
        text = "".join(f"<tool>{tool.name}{end}" for tool in tools)
        text += "".join(f"<{message.role}>{message.content}{end}" for message in messages)
        if not plain:
            text += "<assistant>" + ("<think></think>" if self._script.template == "thinking" else "")
        return list((text + ("<think>" if thinking else "")).encode())

    def tokenize(self, text: str, *, bos: bool = True, control: bool = True) -> list[int]:  # noqa: ARG002 - it has none
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END

    def step(self, runs: Sequence[Run]) -> list[int]:
        phase: Phase = "prefill" if any(len(run.tokens) > 1 or not run.output for run in runs) else "decode"
        self.strike(phase)
        time.sleep(self._step_s())
        if sum(len(run.tokens) for run in runs) > self._options.ubatch:
            raise StepError("the step holds more tokens than ubatch")
        for run in runs:
            cells = self._cells.setdefault(run.seq, [])
            if run.start != len(cells) or len(cells) + len(run.tokens) > self.context:
                raise StepError(f"sequence {run.seq} has {len(cells)} cells; tokens came for {run.start}")
            cells += run.tokens
        rows = [
            (run.seq, run.start + offset + 1)
            for run in runs
            for offset in range(len(run.tokens))
            if run.output and (run.every or offset == len(run.tokens) - 1)
        ]
        if len(rows) > self.rows:
            raise StepError(f"the step wants {len(rows)} rows of logits; there is room for {self.rows}")
        self._rows = rows
        return list(range(len(rows)))

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> FakeSampler:  # noqa: ARG002 - as in the port
        answer = self._answer(bytes(prompt).decode("utf-8", "replace"))
        sampler = FakeSampler(answer, prompt, self._samplers)
        self._samplers.append(sampler)
        return sampler

    def sample(self, sampler: Sampler, row: int, allows: Allows | None = None) -> int:
        if not isinstance(sampler, FakeSampler):
            raise StepError("a sampler of another engine")
        token = sampler.token(self._rows[row][1])
        if allows is None or allows(token):
            return token
        for instead in INSTEAD:
            if allows(instead):
                return instead
        raise Refused("the model has no token that the answer may go on with")

    def embed(self, runs: Sequence[Run]) -> list[list[float]]:
        """The letters of the text, counted by their remainder."""
        if self.pooling is None:
            raise StepError("the model is not loaded for embeddings")
        self.step(runs)
        texts = [self._cells[run.seq] for run in runs]
        return [[float(sum(t % DIMENSIONS == n for t in text)) for n in range(DIMENSIONS)] for text in texts]

    def log_probabilities(self, row: int, tokens: Sequence[int]) -> list[float]:
        """What the script says next is nearly certain, the rest equally unlikely."""
        expected = self._expected(row)
        return [math.log(SURE if token == expected else (1 - SURE) / END) for token in tokens]

    def top(self, row: int, count: int) -> list[int]:
        expected = self._expected(row)
        return [expected, *(token for token in range(END + 1) if token != expected)][:count]

    def use_threads(self, count: int) -> None:
        self.threads = count

    def forget(self, seq: int) -> None:
        self._cells.pop(seq, None)
        if self._script.leak_mib:
            self._leaked.append(bytearray(os.urandom(1) * (self._script.leak_mib << 20)))

    def state_bytes(self, seq: int) -> int:
        return 4 * (2 + len(self._cells.get(seq, []))) + (self._script.state_mib << 20)

    def save(self, seq: int) -> State:
        cells = self._cells.get(seq, [])
        state = new_state(self.state_bytes(seq))
        state.write(array("i", [STATE_MAGIC, len(cells), *cells]).tobytes())
        state.write(b"\1" * (len(state) - state.tell()))
        return state

    def restore(self, seq: int, state: State, length: int) -> None:
        self._cells.pop(seq, None)
        words = array("i", state[: 4 * (2 + length)])
        if len(words) != 2 + length or list(words[:2]) != [STATE_MAGIC, length] or length > self.context:
            raise StateError(f"the saved state is no sequence of {length} tokens")
        self._cells[seq] = list(words[2:])

    def move(self, seq: int, to: int) -> None:
        self._cells[to] = self._cells.pop(seq, [])

    def truncate(self, seq: int, length: int) -> bool:
        cells = self._cells.get(seq, [])
        if length < len(cells) and not self.can_truncate:
            return False
        del cells[length:]
        return True

    def close(self) -> None:
        self._cells.clear()

    def _step_s(self) -> float:
        script = self._script
        disturbed = script.neighbour_file and Path(script.neighbour_file).exists()
        return script.step_s + (script.neighbour_s * (self.threads - 1) if disturbed else 0.0)

    def strike(self, phase: Phase) -> None:
        """Do the scripted fault when its time has come."""
        script = self._script
        self._steps[phase] += 1
        if not script.crash_signal or phase != script.crash_phase or self._steps[phase] <= script.crash_after:
            return
        if script.crash_file and not Path(script.crash_file).exists():
            return
        if script.crash_with_repack and not self._options.repack:
            return
        if script.crash_signal == "EXIT":
            os._exit(0)
        if script.crash_signal == "HANG":
            while True:
                signal.pause()
        if script.crash_signal == "GARBAGE":
            os.write(int(os.environ["EDGED_WORKER_FD"]), b"\xff" * 64)
            return
        os.kill(os.getpid(), signal.Signals[script.crash_signal])

    def _expected(self, row: int) -> int:
        """The scripted token after a row: that of the request with the longest prompt it continues."""
        seq, length = self._rows[row]
        cells = self._cells[seq][:length]
        known = [one for one in self._samplers if cells[: len(one.prompt)] == one.prompt]
        return max(known, key=lambda one: len(one.prompt)).token(len(cells)) if known else END

    def _answer(self, prompt: str) -> str:
        return self._script.answer or "echo: " + prompt.rsplit("<user>", 1)[-1].partition(TURN_END)[0]


class FakeSampler:
    """Walks through one scripted answer."""

    def __init__(self, answer: str, prompt: Sequence[int], living: list[FakeSampler]) -> None:
        self.prompt = list(prompt)
        self._tokens: list[int] = [*answer.encode(), END]
        self._living = living

    def token(self, position: int) -> int:
        """The token at ``position`` of the sequence; after the end, the end again."""
        return self._tokens[min(position - len(self.prompt), len(self._tokens) - 1)]

    def close(self) -> None:
        self._living.remove(self)


def load_fake(path: str, options: EngineOptions, on_progress: Callable[[], None]) -> FakeBackend:
    """Raises LoadError when the script cannot be read or says so."""
    try:
        script = msgspec.convert(tomllib.loads(Path(path).read_text()), Script)
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be loaded: {error}") from error
    backend = FakeBackend(script, options)
    deadline = time.monotonic() + script.load_s
    while True:
        on_progress()
        backend.strike("load")
        if time.monotonic() >= deadline:
            break
        time.sleep(min(0.02, script.load_s))
    if script.load_error:
        raise LoadError(script.load_error)
    return backend
