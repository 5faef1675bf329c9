"""How likely each of some choices is as the model's answer: their tokens as a tree, read in few steps.

How likely an answer begins with a choice is the product of ``p(token | prompt, tokens before)`` over its
tokens, each among the whole vocabulary. Where one choice begins with another ("cold and wet", "cold"), the
shorter one counts only the answers that do not go on as the longer: no answer counts for two choices.
The probabilities of a request are the softmax over its choices of the logarithms of that (``sum``), or of
these divided by the number of tokens (``mean``), which does not favour short choices, but favours long ones
that are certain once begun.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct, structs

from edged.api.events import Score
from edged.worker.backends.base import Run, State, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from edged.api.requests import ScoringRule
    from edged.ipc.messages import Start
    from edged.worker.backends.base import Backend

Path: TypeAlias = tuple[int, ...]  # tokens after the prompt

# A state above this is not copied where the sequence can be cut back instead: copying it there and back takes
# about as long as the steps that are saved.
COPY_BYTES = 32 << 20


# What is left of a choice when all its answers seem to go on as longer ones: the rounding of a float32 sum.
LEAST_SHARE = 1e-6


class ChoiceError(Exception):
    """A choice that this model cannot say; the text is for the client."""


class Branch(Struct, frozen=True):
    """``tokens`` to evaluate after ``path``; ``state`` is that of the sequence at the end of ``path``."""

    path: Path
    tokens: Path
    state: State | None = None


class ChoiceTree:
    """Choices as sequences of tokens, and which of their beginnings must be evaluated to score them. Pure."""

    def __init__(self, choices: Iterable[Sequence[int]]) -> None:
        self.sequences = [tuple(tokens) for tokens in choices]
        self._next: dict[
            Path, dict[int, float]
        ] = {}  # a beginning → the log-probabilities of what may follow
        for sequence in self.sequences:
            for length, token in enumerate(sequence):
                self._next.setdefault(sequence[:length], {})[token] = math.nan

    @property
    def depth(self) -> int:
        """Tokens of the longest beginning that must be evaluated."""
        return max(map(len, self._next))

    @property
    def width(self) -> int:
        """How many sequences can be at work on it side by side; 0: the prompt alone is to be evaluated."""
        return sum(1 for path in self._next if path and not self._inner(path))

    def following(self, path: Path) -> list[int]:
        """The tokens whose log-probabilities after ``path`` are wanted."""
        return list(self._next[path])

    def learn(self, path: Path, logprobs: Iterable[float]) -> None:
        """Take the log-probabilities of ``following(path)``, in its order."""
        self._next[path] = dict(zip(self._next[path], logprobs, strict=True))

    def branches(self, path: Path) -> Iterator[Path]:
        """What must be evaluated after ``path``: runs of tokens up to where beginnings part or end."""
        for token in self._inner(path):
            run: Path = (token,)
            while len(more := self._inner(path + run)) == 1:
                run += (more[0],)
            yield run

    def likelihoods(self) -> list[float]:
        """The log-probability of each choice that was learnt: answers that go on as a longer one left out."""
        begun = {sequence: self._begun(sequence) for sequence in self.sequences}
        return [
            logprob + math.log(max(LEAST_SHARE, 1 - self._longer(sequence, begun)))
            for sequence, logprob in ((one, begun[one]) for one in self.sequences)
        ]

    def _begun(self, sequence: Path) -> float:
        """The log-probability that an answer begins with ``sequence``."""
        return math.fsum(self._next[sequence[:length]][token] for length, token in enumerate(sequence))

    def _longer(self, sequence: Path, begun: Mapping[Path, float]) -> float:
        """The share of the answers beginning with ``sequence`` that go on as another choice."""
        if sequence not in self._next:
            return 0.0
        longer = {
            other for other in begun if len(other) > len(sequence) and other[: len(sequence)] == sequence
        }
        nearest = [one for one in longer if not any(one[:n] in longer for n in range(len(one)))]
        return math.fsum(math.exp(begun[one] - begun[sequence]) for one in nearest)

    def _inner(self, path: Path) -> list[int]:
        return [token for token in self._next[path] if (*path, token) in self._next]


class Scoring:
    """The tree of one request at work, from the row of its prompt's last token to the scores.

    ``seq`` holds ``length`` tokens of prompt; a step evaluates at most ``budget`` tokens. Beginnings that
    part are evaluated side by side in spare sequences where copies are cheap, else one after the other,
    from a saved state or by cutting back. Raises StepError and StateError.
    """

    def __init__(self, backend: Backend, tree: ChoiceTree, seq: int, length: int, budget: int) -> None:
        self._backend = backend
        self._tree = tree
        self._length = length
        self._budget = min(budget, backend.rows)  # each token evaluated has its row
        self._lanes = [_Lane(seq)]
        self._todo: list[Branch] = []
        self.evaluated = 0  # tokens after the prompt

    def begin(self, row: int, spare: Sequence[int]) -> list[int]:
        """Read the logits after the prompt; those of ``spare`` that are taken until ``close``."""
        first = self._lanes[0]
        first.filled = True
        self._learn((), row)
        taken = list(spare[: max(0, min(self._tree.width, self._budget) - 1)])
        if taken and self._backend.can_truncate and self._backend.state_bytes(first.seq) > COPY_BYTES:
            taken = []
        self._lanes += map(_Lane, taken)
        self._grow(first)
        return taken

    @property
    def done(self) -> bool:
        return not (self._todo or any(lane.rest for lane in self._lanes))

    def step(self) -> None:
        """Evaluate some more."""
        working = [lane for lane in self._lanes if self._busy(lane)]
        share = self._budget // len(working)
        runs = [
            Run(lane.seq, list(lane.rest[:share]), self._length + len(lane.path), output=True, every=True)
            for lane in working
        ]
        rows = iter(self._backend.step(runs))
        for lane, run in zip(working, runs, strict=True):
            lane.rest = lane.rest[share:]
            for token in run.tokens:
                lane.path = (*lane.path, token)
                self._learn(lane.path, next(rows))
            self.evaluated += len(run.tokens)
            if not lane.rest:
                self._grow(lane)

    def scores(self, choices: Sequence[str], scoring: ScoringRule) -> tuple[Score, ...]:
        """One for each of ``choices``, the texts of the tree's, in their order."""
        sums = self._tree.likelihoods()
        lengths = [len(sequence) for sequence in self._tree.sequences]
        weights = sums if scoring == "sum" else [s / n for s, n in zip(sums, lengths, strict=True)]
        return tuple(map(Score, choices, softmax(weights), sums, lengths))

    def close(self) -> None:
        """Forget what is in the spare sequences."""
        for lane in self._lanes[1:]:
            self._backend.forget(lane.seq)

    def _busy(self, lane: _Lane) -> bool:
        """Whether ``lane`` has work; it takes a branch when it has none."""
        if not lane.rest and self._todo:
            # What goes on where the lane is costs no copy; of the others the last one added is the nearest.
            at = next((n for n, branch in enumerate(self._todo) if lane.holds(branch.path)), -1)
            self._place(lane, self._todo.pop(at))
        return bool(lane.rest)

    def _place(self, lane: _Lane, branch: Branch) -> None:
        """Bring the sequence of ``lane`` to where ``branch`` begins."""
        if not lane.holds(branch.path):
            length = self._length + len(branch.path)
            beyond = lane.filled and lane.path[: len(branch.path)] == branch.path
            if not (beyond and self._backend.truncate(lane.seq, length)):
                if branch.state is None:
                    raise StateError("the engine does not cut a sequence back, though it says it can")
                self._backend.restore(lane.seq, branch.state, length)
        lane.filled, lane.path, lane.rest = True, branch.path, branch.tokens

    def _grow(self, lane: _Lane) -> None:
        """Add what is to be evaluated after the path of ``lane``."""
        branches = list(self._tree.branches(lane.path))
        again = len(branches) > 1 and (len(self._lanes) > 1 or not self._backend.can_truncate)
        state = self._backend.save(lane.seq) if again else None
        self._todo += [Branch(lane.path, tokens, state) for tokens in branches]

    def _learn(self, path: Path, row: int) -> None:
        self._tree.learn(path, self._backend.log_probabilities(row, self._tree.following(path)))


class _Lane:
    """A sequence: the tokens it holds after the prompt, and those it has still to evaluate."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.filled = False  # spare ones do not hold the prompt at first
        self.path: Path = ()
        self.rest: Path = ()

    def holds(self, path: Path) -> bool:
        return self.filled and self.path == path


def choice_tree(backend: Backend, order: Start) -> ChoiceTree:
    """The choices of ``order`` as what may follow its prompt. Raises ChoiceError."""
    choices = at_a_word(order).choices
    sequences = [backend.tokenize(choice, bos=False, control=False) for choice in choices]
    for choice, tokens in zip(order.choices, sequences, strict=True):
        if not tokens:
            raise ChoiceError(f"choices: {choice!r} has no tokens in this model's vocabulary")
    return ChoiceTree(sequences)


def best(scores: Sequence[Score]) -> str:
    """The likeliest choice; of equals the first."""
    return max(scores, key=lambda score: score.probability).choice


def softmax(weights: Sequence[float]) -> list[float]:
    """Shares of 1 in proportion to the exponentials of ``weights``."""
    highest = max(weights)
    parts = [math.exp(weight - highest) for weight in weights]
    total = math.fsum(parts)
    return [part / total for part in parts]


def at_a_word(order: Start) -> Start:
    """A raw prompt's trailing blanks moved to the front of its choices.

    Tokenizers join a blank with the word after it, so that is where the prompt of the model would end.
    """
    prompt = order.prompt.rstrip()
    if order.messages or not prompt or prompt == order.prompt:
        return order
    blanks = order.prompt[len(prompt) :]
    return structs.replace(order, prompt=prompt, choices=tuple(blanks + choice for choice in order.choices))
