"""Evaluates a tree of choices after the prompt, in as few steps as the sequences at hand allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from edged.worker.backends.base import Run, State, StateError
from edged.worker.choices import Path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edged.api.events import Score
    from edged.worker.backends.base import Backend
    from edged.worker.choices import ChoiceTree

# A state above this is not copied where the sequence can be cut back instead: copying it there and back takes
# about as long as the steps that are saved.
COPY_BYTES = 32 << 20


class Branch(Struct, frozen=True):
    """``tokens`` to evaluate after ``path``; ``state`` is that of the sequence at the end of ``path``."""

    path: Path
    tokens: Path
    state: State | None = None


class Scoring:
    """The tree of one request at work, from the row of its prompt's last token on.

    ``seq`` holds ``length`` tokens of prompt; a step evaluates at most ``budget`` tokens. Paths that part are
    evaluated side by side in spare sequences where copies are cheap, else one after the other, from a saved
    state or by cutting back. Raises StepError and StateError.
    """

    def __init__(self, backend: Backend, tree: ChoiceTree, seq: int, length: int, budget: int) -> None:
        self._backend = backend
        self._tree = tree
        self._length = length
        self._budget = min(budget, backend.rows) if tree.every else budget
        self._lanes = [_Lane(seq)]
        self._todo: list[Branch] = []
        self.evaluated = 0  # tokens after the prompt

    def begin(self, row: int, spare: Sequence[int]) -> list[int]:
        """Read the logits after the prompt; those of ``spare`` that are taken until ``close``."""
        first = self._lanes[0]
        first.filled = True
        self._learn((), row)
        lanes = min(self._tree.width, self._budget, self._backend.rows)
        taken = list(spare[: max(0, lanes - 1)])
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
        runs = [self._run(lane, share) for lane in working]
        rows = iter(self._backend.step(runs))
        for lane, run in zip(working, runs, strict=True):
            lane.rest = lane.rest[share:]
            self.evaluated += len(run.tokens)
            for number, token in enumerate(run.tokens, 1):
                lane.path = (*lane.path, token)
                if run.output and (run.every or number == len(run.tokens)):
                    self._learn(lane.path, next(rows))
            if not lane.rest:
                self._grow(lane)

    def scores(self, choices: Sequence[str]) -> tuple[Score, ...]:
        """One for each of ``choices``, the texts of the tree's, in their order."""
        return self._tree.scores(choices)

    def close(self) -> None:
        """Forget what is in the spare sequences."""
        for lane in self._lanes[1:]:
            self._backend.forget(lane.seq)

    def _run(self, lane: _Lane, share: int) -> Run:
        tokens, start, every = lane.rest[:share], self._length + len(lane.path), self._tree.every
        return Run(lane.seq, list(tokens), start, output=every or len(tokens) == len(lane.rest), every=every)

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
        if len(branches) == 1:  # no other lane could begin it without a copy
            lane.rest = branches[0]
            return
        again = branches and (len(self._lanes) > 1 or not self._backend.can_truncate)
        state = self._backend.save(lane.seq) if again else None
        self._todo += [Branch(lane.path, tokens, state) for tokens in branches]

    def _learn(self, path: Path, row: int) -> None:
        if self._tree.asks(path):
            following = self._tree.following(path)
            self._tree.learn(path, self._backend.log_probabilities(row, following))


class _Lane:
    """A sequence: the tokens it holds after the prompt, and those it has still to evaluate."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.filled = False  # spare ones do not hold the prompt at first
        self.path: Path = ()
        self.rest: Path = ()

    def holds(self, path: Path) -> bool:
        return self.filled and self.path == path


def best(scores: Sequence[Score]) -> str:
    """The likeliest choice; of equals the first."""
    return max(scores, key=lambda score: score.probability).choice
