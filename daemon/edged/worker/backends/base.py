"""What a model engine must offer to the decode loop; llama.cpp, ONNX and the fake all do."""

from __future__ import annotations

import contextlib
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.requests import Message, Sampling, Tool
    from edged.api.status import MemoryParts
    from edged.worker.forms.calls import CallForm


class LoadError(Exception):
    """The model cannot be loaded; the text says why, for people."""


class StepError(Exception):
    """The engine refused a compute step; its state is unknown from here on."""


class StateError(Exception):
    """A sequence cannot be saved, or a saved state does not fit this engine; nothing else is affected."""


# A saved sequence, in pages of its own: they go back to the system with the last reference.
State: TypeAlias = mmap


def new_state(size: int) -> State:
    """``size`` bytes of anonymous memory; raises StateError when there are none."""
    try:
        state = mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    except OSError as error:
        raise StateError(f"no memory for {size} bytes of a saved sequence: {error.strerror}") from error
    with contextlib.suppress(OSError):  # a kernel without them fills it three times as slowly
        state.madvise(MADV_HUGEPAGE)
    return state


class Run(Struct, frozen=True):
    """Tokens of one sequence in one step, at positions ``start`` … ``start + len(tokens) - 1``.

    ``output``: the logits after the last token are wanted; with ``every`` those after each token.
    """

    seq: int
    tokens: list[int]
    start: int
    output: bool
    every: bool = False


class Pooling(Struct, frozen=True):
    """How a model makes one vector of a text: from the mean of its tokens, the first or the last one.

    ``tokens`` is the longest text. ``piecewise``: all but its last token may be evaluated before, in any
    number of steps; otherwise all go into one. ``texts`` may be read side by side.
    """

    kind: Literal["mean", "cls", "last"]
    piecewise: bool
    texts: int
    tokens: int


Allows: TypeAlias = "Callable[[int], bool]"  # whether a token may come next


class Sampler(Protocol):
    """The sampling state of one request."""

    def close(self) -> None: ...


class Backend(Protocol):
    """One loaded model with its KV cache. Single-threaded: every call from the loop's thread."""

    engine: str  # name and version of the engine
    model_name: str
    context: int  # tokens one sequence may hold
    rows: int  # of logits that one step may give
    memory: MemoryParts  # what was allocated at load
    draft_tokens: int  # that a step may hold on trial, among all its runs, and ``truncate`` takes back
    pooling: Pooling | None  # set when the model is loaded for embeddings; then it does nothing else
    can_truncate: bool  # a sequence can be cut back to any length: every layer keeps every token

    @property
    def call_form(self) -> CallForm:
        """How the model writes tool calls."""

    def render(self, messages: Sequence[Message], *, thinking: bool, tools: Sequence[Tool] = ()) -> list[int]:
        """Tokens of a conversation through the model's chat template; raises TemplateError.

        What people and programs say in it is text: the name of a control token inside ends no turn.
        """

    def tokenize(self, text: str, *, bos: bool = True, control: bool = True) -> list[int]:
        """Tokens of a raw prompt; with ``bos`` the beginning-of-sequence token where the model wants one.

        Without ``control`` the name of a control token is text like any other.
        """

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; may end inside a code point.

        Control tokens stand for nothing, but for those that mark thoughts and tool calls.
        """

    def is_end(self, token: int) -> bool:
        """The model says it has finished."""

    def step(self, runs: Sequence[Run]) -> list[int]:
        """Evaluate ``runs`` together; a row handle for each token whose logits are wanted, in order.

        Raises StepError.
        """

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler: ...

    def sample(self, sampler: Sampler, row: int, allows: Allows | None = None) -> int:
        """Draw the next token from the logits of ``row``, which the last step returned.

        Where ``allows`` is False of it another one is drawn, among the likeliest that are allowed. Raises
        Refused when the model has none at all.
        """

    def embed(self, runs: Sequence[Run]) -> list[list[float]]:
        """Evaluate the rest of some texts together; the vector of each, which may have any length.

        Raises StepError, also when the model is not loaded for embeddings.
        """

    def log_probabilities(self, row: int, tokens: Sequence[int]) -> list[float]:
        """Natural logarithms of how likely each of ``tokens`` comes next, before any sampling rule."""

    def top(self, row: int, count: int) -> list[int]:
        """The ``count`` likeliest tokens, the likeliest first."""

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from here on."""

    def forget(self, seq: int) -> None:
        """Free all cells of a sequence."""

    def state_bytes(self, seq: int) -> int:
        """The size of what ``save`` would return now."""

    def save(self, seq: int) -> State:
        """A copy of what was evaluated of a sequence. Raises StateError."""

    def restore(self, seq: int, state: State, length: int) -> None:
        """Make ``seq`` the sequence of ``length`` tokens that was saved as ``state``.

        Raises StateError when it is none of this engine, model and options; ``seq`` is empty then.
        """

    def move(self, seq: int, to: int) -> None:
        """Make ``to``, which is empty, the sequence ``seq`` from the next step on; ``seq`` is empty then."""

    def truncate(self, seq: int, length: int) -> bool:
        """Cut a sequence back to its first ``length`` tokens.

        False, and nothing changed, when the memory has forgotten what that takes: recurrent layers keep
        their last state only, sliding windows their last tokens.
        """

    def close(self) -> None: ...
