"""Saved beginnings of prompts in a byte budget: the longest is found, the least useful goes. Pure."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

State = TypeVar("State")

TOKEN_BYTES = 4  # of a token in a key
PROVEN_SHARE = 0.75  # what was found once gives way to newcomers beyond this part of the budget


def key_of(tokens: Iterable[int]) -> bytes:
    """Tokens as bytes: comparing them is one memcmp."""
    return array("i", tokens).tobytes()


def tokens_of(key: bytes) -> list[int]:
    """The tokens of a key."""
    return array("i", key).tolist()


def common_tokens(one: bytes, other: bytes) -> int:
    """How many tokens two keys have in common at their beginning."""
    low, high = 0, min(len(one), len(other)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        start, end = low * TOKEN_BYTES, middle * TOKEN_BYTES
        if one[start:end] == other[start:end]:
            low = middle
        else:
            high = middle - 1
    return low


class Prefix(Generic[State]):
    """The state of a sequence that begins with the tokens of ``key``.

    ``shared``: many prompts are likely to begin so, and not only the next turn of one conversation.
    """

    def __init__(self, key: bytes, state: State, size_bytes: int, *, shared: bool) -> None:
        self.key = key
        self.state = state
        self.size_bytes = size_bytes
        self.shared = shared
        self.hits = 0

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.key) // TOKEN_BYTES


class PrefixStore(Generic[State]):
    """Never holds more than ``limit_bytes``, keys included.

    Two queues, as in a segmented LRU: an entry enters among the newcomers and is proven by its first hit.
    Newcomers go first, the one that was not used for longest before the others, so that a hundred prompts
    that never come again do not push out the one that all begin with.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._new: OrderedDict[bytes, Prefix[State]] = OrderedDict()
        self._proven: OrderedDict[bytes, Prefix[State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._new) + len(self._proven)

    def __iter__(self) -> Iterator[Prefix[State]]:
        """The next to go first."""
        yield from self._new.values()
        yield from self._proven.values()

    @property
    def free_bytes(self) -> int:
        return self.limit_bytes - self.held_bytes

    def get(self, key: bytes) -> Prefix[State] | None:
        """The entry of just these tokens."""
        return self._new.get(key) or self._proven.get(key)

    def longest(self, key: bytes, *, cut: bool, least: int = 1) -> tuple[Prefix[State], int] | None:
        """The entry that saves most of ``key``, and how many tokens that are.

        They must be ``least``, or half of the entry, since all of it is copied for them. Without ``cut``
        only an entry that ``key`` begins with counts; with it an entry may be cut back to what it has in
        common with ``key``. Of equals the smallest.
        """
        best: tuple[Prefix[State], int] | None = None
        for prefix in self:
            if key.startswith(prefix.key):
                length = prefix.length
            elif cut:
                length = common_tokens(key, prefix.key)
            else:
                continue
            if length < least and 2 * length < prefix.length:
                continue
            if best is None or (length, -prefix.size_bytes) > (best[1], -best[0].size_bytes):
                best = prefix, length
        return best

    def hit(self, prefix: Prefix[State]) -> None:
        """Note that ``prefix`` was of use."""
        prefix.hits += 1
        self._new.pop(prefix.key, None)
        self._proven[prefix.key] = prefix
        self._proven.move_to_end(prefix.key)
        proven_bytes = sum(one.size_bytes for one in self._proven.values())
        while proven_bytes > PROVEN_SHARE * self.limit_bytes and len(self._proven) > 1:
            _, oldest = self._proven.popitem(last=False)
            proven_bytes -= oldest.size_bytes
            self._new[oldest.key] = oldest

    def supersede(self, prefix: Prefix[State]) -> None:
        """``prefix`` is the next to go: a longer one serves its conversation."""
        if self.get(prefix.key) is prefix:
            self._proven.pop(prefix.key, None)
            self._new[prefix.key] = prefix
            self._new.move_to_end(prefix.key, last=False)

    def make_room(self, size_bytes: int, instead_of: Prefix[State] | None = None) -> bool:
        """Let go of as much as it takes; False, and nothing changed, when that is more than the limit.

        ``instead_of`` is superseded by what the room is for.
        """
        if size_bytes > self.limit_bytes:
            return False
        if instead_of is not None:
            self.supersede(instead_of)
        self._let_go(lambda: self.held_bytes + size_bytes > self.limit_bytes)
        return True

    def put(self, prefix: Prefix[State]) -> None:
        """Take in what ``make_room`` was asked for. Raises ValueError when there is no room.

        In place of an entry of the same tokens it is as useful to as many.
        """
        before, queue = self.get(prefix.key), self._proven if prefix.key in self._proven else self._new
        self.drop(prefix.key)
        if self.held_bytes + prefix.size_bytes > self.limit_bytes:
            raise ValueError("there is no room for this prefix")
        prefix.shared = prefix.shared or (before is not None and before.shared)
        queue[prefix.key] = prefix
        self.held_bytes += prefix.size_bytes

    def drop(self, key: bytes) -> None:
        """Let go of one entry, if it is there."""
        found = self._new.pop(key, None) or self._proven.pop(key, None)
        if found is not None:
            self.held_bytes -= found.size_bytes

    def shrink(self, limit_bytes: int) -> None:
        """Hold no more than ``limit_bytes`` from now on."""
        self.limit_bytes = limit_bytes
        self._let_go(lambda: self.held_bytes > self.limit_bytes)

    def _let_go(self, too_much: Callable[[], bool]) -> None:
        while too_much():
            self.drop(next(iter(self)).key)
