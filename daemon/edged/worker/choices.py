"""Choices as a tree of tokens: what must be evaluated to tell how likely each is, and what comes of it. Pure.

Three rules make probabilities of the choices of a request, which sum to 1:

``constrained``: those with which generation that is held to the choices says each. Only where choices part
is anything looked at: the probabilities there, in proportion. What is left of a choice that no other shares
costs nothing, so that choices which differ in their first token cost the prompt alone.

``sum``: how likely an answer begins with a choice is the product of ``p(token | prompt, tokens before)`` over
its tokens, each among the whole vocabulary; the probabilities are in proportion to that. This sees that few
answers go on as a choice does though many begin like it, and must read every choice almost to its end.

``mean``: the same, but of the logarithms divided by the number of tokens, which does not favour short
choices, but favours long ones that are certain once begun.

Where one choice begins with another ("cold and wet", "cold"), the shorter one counts only the answers that
do not go on as the longer: no answer counts for two choices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from msgspec import structs

from edged.api.events import Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from edged.api.requests import ScoringRule
    from edged.ipc.messages import Start
    from edged.worker.backends.base import Backend

Path: TypeAlias = tuple[int, ...]  # tokens after the prompt

# What is left of a choice when all its answers seem to go on as longer ones: the rounding of a float32 sum.
LEAST_SHARE = 1e-6


class ChoiceError(Exception):
    """A choice that this model cannot say; the text is for the client."""


class ChoiceTree:
    """``sequences`` are the tokens of each choice; the prompt is the empty path."""

    def __init__(self, sequences: Iterable[Sequence[int]], rule: ScoringRule) -> None:
        self.sequences = [tuple(tokens) for tokens in sequences]
        self.rule = rule
        # A beginning → the log-probabilities of what may follow it.
        self._next: dict[Path, dict[int, float]] = {}
        for sequence in self.sequences:
            for length, token in enumerate(sequence):
                self._next.setdefault(sequence[:length], {})[token] = math.nan
        self._ends = frozenset(self.sequences)
        self._read = {path[:n] for path in self._next if self.asks(path) for n in range(1, len(path) + 1)}

    @property
    def every(self) -> bool:
        """Each token that is evaluated is also asked what may follow it."""
        return self.rule != "constrained"

    @property
    def depth(self) -> int:
        """Tokens of the longest path that must be evaluated."""
        return max(map(len, self._read), default=0)

    @property
    def width(self) -> int:
        """How many sequences can be at work on it side by side; 0: the prompt alone is to be evaluated."""
        return sum(1 for path in self._read if not self._inner(path))

    def asks(self, path: Path) -> bool:
        """Whether the logits after ``path`` are wanted."""
        return self.every or len(self._next[path]) > 1 or path in self._ends

    def following(self, path: Path) -> list[int]:
        """The tokens whose log-probabilities after ``path`` are wanted."""
        return list(self._next[path])

    def learn(self, path: Path, logprobs: Iterable[float]) -> None:
        """Take the log-probabilities of ``following(path)``, in its order."""
        self._next[path] = dict(zip(self._next[path], logprobs, strict=True))

    def branches(self, path: Path) -> Iterator[Path]:
        """What must be evaluated after ``path``: runs of tokens to where paths part, or logits are wanted.

        With ``every`` they are wanted on the way, too.
        """
        for token in self._inner(path):
            run: Path = (token,)
            while len(more := self._inner(path + run)) == 1 and (self.every or not self.asks(path + run)):
                run += (more[0],)
            yield run

    def scores(self, choices: Sequence[str]) -> tuple[Score, ...]:
        """One for each of ``choices``, the texts of the sequences in their order, once all was learnt."""
        if not self.every:
            decided = [self._decided(sequence) for sequence in self.sequences]
            return tuple(
                Score(choice=choice, probability=probability, logprob=logprob, tokens=tokens)
                for choice, (probability, logprob, tokens) in zip(choices, decided, strict=True)
            )
        sums = self.likelihoods()
        lengths = [len(sequence) for sequence in self.sequences]
        weights = sums if self.rule == "sum" else [s / n for s, n in zip(sums, lengths, strict=True)]
        return tuple(map(Score, choices, softmax(weights), sums, lengths))

    def likelihoods(self) -> list[float]:
        """The log-probability of each choice: of answers that begin with it, and not with a longer one."""
        begun = {sequence: self._begun(sequence) for sequence in self.sequences}
        return [
            logprob + math.log(max(LEAST_SHARE, 1 - self._longer(sequence, begun)))
            for sequence, logprob in ((one, begun[one]) for one in self.sequences)
        ]

    def _decided(self, sequence: Path) -> tuple[float, float, int]:
        """Of one choice: its probability, and the sum and number of the log-probabilities it is made of."""
        probability, logprob, tokens = 1.0, 0.0, 0
        for length in range(len(sequence) + 1):
            path = sequence[:length]
            if path not in self._next or not self.asks(path):
                continue
            shares = {token: math.exp(value) for token, value in self._next[path].items()}
            ending = max(LEAST_SHARE, 1 - math.fsum(shares.values())) if path in self._ends else 0.0
            share = shares[sequence[length]] if length < len(sequence) else ending
            probability *= share / (math.fsum(shares.values()) + ending)
            logprob += math.log(share) if length == len(sequence) else self._next[path][sequence[length]]
            tokens += 1
        return probability, logprob, tokens

    def _begun(self, sequence: Path) -> float:
        """The log-probability that an answer begins with ``sequence``."""
        return math.fsum(self._next[sequence[:length]][token] for length, token in enumerate(sequence))

    def _longer(self, sequence: Path, begun: Mapping[Path, float]) -> float:
        """The share of the answers beginning with ``sequence`` that go on as another choice."""
        if sequence not in self._next:
            return 0.0
        length = len(sequence)
        longer = {other for other in begun if other[:length] == sequence != other}
        nearest = [one for one in longer if not any(one[:n] in longer for n in range(len(one)))]
        return math.fsum(math.exp(begun[one] - begun[sequence]) for one in nearest)

    def _inner(self, path: Path) -> list[int]:
        return [token for token in self._next[path] if (*path, token) in self._read]


def choice_tree(backend: Backend, order: Start) -> ChoiceTree:
    """The choices of ``order`` as what may follow its prompt. Raises ChoiceError."""
    choices = at_a_word(order).choices
    sequences = [backend.tokenize(choice, bos=False, control=False) for choice in choices]
    for choice, tokens in zip(order.choices, sequences, strict=True):
        if not tokens:
            raise ChoiceError(f"choices: {choice!r} has no tokens in this model's vocabulary")
        if sequences.count(tokens) > 1:
            raise ChoiceError(f"choices: {choice!r} is the same to this model as another choice")
    return ChoiceTree(sequences, order.scoring)


def at_a_word(order: Start) -> Start:
    """A raw prompt's trailing blanks moved to the front of its choices.

    Tokenizers join a blank with the word after it, so that is where the prompt of the model would end.
    """
    prompt = order.prompt.rstrip()
    if order.messages or not prompt or prompt == order.prompt:
        return order
    blanks = order.prompt[len(prompt) :]
    return structs.replace(order, prompt=prompt, choices=tuple(blanks + choice for choice in order.choices))


def softmax(weights: Sequence[float]) -> list[float]:
    """Shares of 1 in proportion to the exponentials of ``weights``."""
    highest = max(weights)
    parts = [math.exp(weight - highest) for weight in weights]
    total = math.fsum(parts)
    return [part / total for part in parts]
