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
    from collections.abc import Iterable, Iterator, Sequence

    from edged.api.requests import ScoringRule
    from edged.ipc.messages import Start
    from edged.worker.backends.base import Backend

Path: TypeAlias = tuple[int, ...]  # tokens after the prompt

# What is left of a choice when all its answers seem to go on as longer ones: the rounding of a float32 sum.
LEAST_SHARE = 1e-6
MOST_TOKENS = 8192  # of all choices together: each may cost a step, and they are for labels
MOST_BLANKS = 16  # moved from a prompt to every choice; no tokenizer joins so many with a word


class ChoiceError(Exception):
    """A choice that this model cannot say; the text is for the client."""


class ChoiceTree:
    """``sequences`` are the tokens of each choice; the prompt is the empty path.

    ``depth``: tokens of the longest path that must be evaluated. ``width``: how many sequences can be at work
    on it side by side; 0: the prompt alone is to be evaluated.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], rule: ScoringRule) -> None:
        self.sequences = [tuple(tokens) for tokens in sequences]
        self.rule = rule
        self._root = _Node(0)
        nodes = [self._root]
        for sequence in self.sequences:
            node = self._root
            for token in sequence:
                if token not in node.following:
                    node.following[token] = _Node(node.depth + 1)
                    nodes.append(node.following[token])
                node = node.following[token]
            node.ends = True
        for node in reversed(nodes):  # what follows a node comes behind it
            node.read = self._asks(node) or bool(node.inner)
        read = [node for node in nodes if node.read and node.depth]
        self.depth = max((node.depth for node in read), default=0)
        self.width = sum(not node.inner for node in read)

    @property
    def every(self) -> bool:
        """Each token that is evaluated is also asked what may follow it."""
        return self.rule != "constrained"

    def asks(self, path: Path) -> bool:
        """Whether the logits after ``path`` are wanted."""
        return self._asks(self._at(path))

    def following(self, path: Path) -> list[int]:
        """The tokens whose log-probabilities after ``path`` are wanted."""
        return list(self._at(path).following)

    def learn(self, path: Path, logprobs: Iterable[float]) -> None:
        """Take the log-probabilities of ``following(path)``, in its order."""
        node = self._at(path)
        node.logprobs = dict(zip(node.following, logprobs, strict=True))

    def branches(self, path: Path) -> Iterator[Path]:
        """What must be evaluated after ``path``: runs of tokens to where paths part, or logits are wanted.

        With ``every`` they are wanted on the way, too.
        """
        for token, node in self._at(path).inner:
            run, end = [token], node
            while len(end.inner) == 1 and (self.every or not self._asks(end)):
                ((more, end),) = end.inner
                run.append(more)
            yield tuple(run)

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
        return [
            self._begun(sequence) + math.log(max(LEAST_SHARE, 1 - _longer(self._at(sequence))))
            for sequence in self.sequences
        ]

    def _at(self, path: Path) -> _Node:
        node = self._root
        for token in path:
            node = node.following[token]
        return node

    def _asks(self, node: _Node) -> bool:
        return bool(node.following) and (self.every or len(node.following) > 1 or node.ends)

    def _decided(self, sequence: Path) -> tuple[float, float, int]:
        """Of one choice: its probability, and the sum and number of the log-probabilities it is made of."""
        probability, logprob, tokens = 1.0, 0.0, 0
        node = self._root
        for token in (*sequence, None):
            if self._asks(node):
                logprobs: dict[int | None, float] = dict(node.logprobs.items())
                if node.ends:
                    going_on = math.fsum(map(math.exp, node.logprobs.values()))
                    logprobs[None] = math.log(max(LEAST_SHARE, 1 - going_on))
                shares = dict(zip(logprobs, softmax([*logprobs.values()]), strict=True))
                probability *= shares[token]
                logprob += logprobs[token]
                tokens += 1
            if token is not None:
                node = node.following[token]
        return probability, logprob, tokens

    def _begun(self, sequence: Path) -> float:
        """The log-probability that an answer begins with ``sequence``."""
        node, parts = self._root, []
        for token in sequence:
            parts.append(node.logprobs[token])
            node = node.following[token]
        return math.fsum(parts)


class _Node:
    """A beginning of choices, ``depth`` tokens long."""

    __slots__ = ("depth", "ends", "following", "logprobs", "read")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.following: dict[int, _Node] = {}
        self.logprobs: dict[int, float] = {}  # of what follows, once learnt
        self.ends = False  # it is a choice
        self.read = False  # it must be evaluated, unless it is the prompt

    @property
    def inner(self) -> list[tuple[int, _Node]]:
        """What follows and must be evaluated."""
        return [(token, node) for token, node in self.following.items() if node.read]


def _longer(node: _Node) -> float:
    """The share of the answers beginning as ``node`` that go on as another choice."""
    shares, below = [], [(node, 0.0)]
    while below:
        node, begun = below.pop()
        for token, one in node.following.items():
            logprob = begun + node.logprobs[token]
            if one.ends:
                shares.append(math.exp(logprob))
            else:
                below.append((one, logprob))
    return math.fsum(shares)


def choice_tree(backend: Backend, order: Start) -> ChoiceTree:
    """The choices of ``order`` as what may follow its prompt. Raises ChoiceError."""
    sequences = [backend.tokenize(choice, bos=False, control=False) for choice in order.choices]
    count = sum(map(len, sequences))
    if count > MOST_TOKENS:
        raise ChoiceError(f"choices: together they have {count} tokens; {MOST_TOKENS} are allowed")
    for choice, tokens in zip(order.choices, sequences, strict=True):
        if not tokens:
            raise ChoiceError(f"choices: {choice!r} has no tokens in this model's vocabulary")
        if sequences.count(tokens) > 1:
            raise ChoiceError(f"choices: {choice!r} is the same to this model as another choice")
    return ChoiceTree(sequences, order.scoring)


def at_a_word(order: Start) -> Start:
    """The blanks at the end of a raw prompt, or the last of them, moved to the front of its choices.

    Tokenizers join a blank with the word after it, so that is where the prompt of the model would end.
    """
    words = order.prompt.rstrip()
    if order.messages or not words or words == order.prompt:
        return order
    end = max(len(words), len(order.prompt) - MOST_BLANKS)
    prompt, blanks = order.prompt[:end], order.prompt[end:]
    return structs.replace(order, prompt=prompt, choices=tuple(blanks + choice for choice in order.choices))


def softmax(weights: Sequence[float]) -> list[float]:
    """Shares of 1 in proportion to the exponentials of ``weights``."""
    highest = max(weights)
    parts = [math.exp(weight - highest) for weight in weights]
    total = math.fsum(parts)
    return [part / total for part in parts]
