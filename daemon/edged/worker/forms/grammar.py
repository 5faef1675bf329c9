"""What an answer must look like, as rules that are followed character by character. Pure.

A grammar is a tree of parts. It runs as a set of stacks: each stack is one way to read what was said so
far, and its top is what may come next. States and the steps between them are remembered, so that twenty
requests with one schema pay for it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from edged.worker.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_STACKS = 2048  # ways to read an answer at once; real schemas have a handful
MAX_FORMS = 4096  # what is looked at to find them, for one character
MAX_DEPTH = 400  # parts inside parts: about 80 levels of JSON, more than any reader needs
MAX_REMEMBERED_BYTES = 8 << 20
# What things take in CPython, about.
_STATE_BYTES = 500
_STEP_BYTES = 120
_STACK_BYTES = 200
_PART_BYTES = 250

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # code points, inclusive


class GrammarTooLarge(Refused):
    """The grammar can be read in too many ways at once."""


class Chars(Struct, frozen=True, eq=False):
    """One character out of inclusive ranges of code points."""

    ranges: Ranges


class Seq(Struct, frozen=True, eq=False):
    """All parts, one after the other."""

    parts: tuple[Part, ...]


class Alt(Struct, frozen=True, eq=False):
    """One of the options."""

    options: tuple[Part, ...]


class Repeat(Struct, frozen=True, eq=False):
    """The part ``least`` to ``most`` times; the part itself is never empty."""

    part: Part
    least: int = 0
    most: int | None = None


class Ref(Struct, frozen=True, eq=False):
    """The rule of this name, which may refer to itself behind at least one character."""

    name: str


# Text stands for itself.
Part: TypeAlias = str | Chars | Seq | Alt | Repeat | Ref

# The number of the part on top, how far a text, a sequence or a repetition has come, what is below, and how
# many parts that is.
Frame: TypeAlias = "tuple[int, int, Stack, int]"
Stack: TypeAlias = "Frame | None"


def alt(*options: Part) -> Part:
    return options[0] if len(options) == 1 else Alt(options)


def optional(part: Part) -> Part:
    return Alt((part, ""))


def chars(text: str) -> Chars:
    """One of the characters of ``text``, in which ``a-z`` is a range."""
    ranges = []
    while text:
        low, high = (text[0], text[2]) if text[1:2] == "-" and len(text) > 2 else (text[0], text[0])
        ranges.append((ord(low), ord(high)))
        text = text[3 if text[1:2] == "-" and len(text) > 2 else 1 :]
    return Chars(tuple(ranges))


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """The code points of ``ranges`` that are not in ``removed``."""
    left = list(ranges)
    for first, last in removed:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if piece[0] <= piece[1]
        ]
    return tuple(left)


class State:
    """How far an answer has come; states of one grammar that allow the same are the same object."""

    __slots__ = ("complete", "stacks", "steps")

    def __init__(self, stacks: frozenset[Stack]) -> None:
        self.stacks = stacks
        self.complete = None in stacks  # the answer may end here
        self.steps: dict[str, State | None] = {}


class Grammar:
    """``root`` and the rules it refers to, ready to be followed from ``start``."""

    def __init__(self, root: Part, rules: Mapping[str, Part] | None = None) -> None:
        self._rules = dict(rules or {})
        self._parts: list[Part] = []
        self._numbers: dict[int, int] = {}  # identity of a part → its number
        self._root = self._number(root)
        self._parts_bytes = _PART_BYTES * _count((root, *self._rules.values()))
        self._forget()

    @property
    def start(self) -> State:
        return self._start

    @property
    def size_bytes(self) -> int:
        """About what the parts take, and what is remembered."""
        return self._parts_bytes + self.remembered_bytes

    def tidy(self) -> None:
        """Forget what was remembered when it is too much; states in use live on with those who use them."""
        if self.remembered_bytes > MAX_REMEMBERED_BYTES:
            self._forget()

    def step(self, state: State, char: str) -> State | None:
        """The state after ``char``, None when it may not come. Raises GrammarTooLarge."""
        if char in state.steps:
            return state.steps[char]
        code = ord(char)
        fitting = [one for one in state.stacks if one is not None and self._matches(one, code, code)]
        after = self._state(self._unfold(list(map(self._rest, fitting)))) if fitting else None
        state.steps[char] = after
        self.remembered_bytes += _STEP_BYTES
        return after

    def follow(self, state: State | None, text: str) -> State | None:
        """The state after all of ``text``."""
        for char in text:
            if state is None:
                break
            state = self.step(state, char)
        return state

    def admits(self, state: State, low: int, high: int) -> bool:
        """Whether any character from code point ``low`` to ``high`` may come next."""
        return any(self._matches(stack, low, high) for stack in state.stacks if stack is not None)

    def _forget(self) -> None:
        self._known: dict[frozenset[Stack], State] = {}
        self.remembered_bytes = 0
        self._start = self._state(self._unfold([_on(self._root, None)]))

    def _state(self, stacks: frozenset[Stack]) -> State:
        known = self._known.get(stacks)
        if known is None:
            known = self._known[stacks] = State(stacks)
            self.remembered_bytes += _STATE_BYTES + _STACK_BYTES * len(stacks)
        return known

    def _number(self, part: Part) -> int:
        """A part by its number, so that stacks are small and quick to compare."""
        number = self._numbers.setdefault(id(part), len(self._parts))
        if number == len(self._parts):
            self._parts.append(part)
        return number

    def _is_character(self, number: int) -> bool:
        part = self._parts[number]
        return isinstance(part, Chars) or (isinstance(part, str) and part != "")

    def _matches(self, stack: Frame, low: int, high: int) -> bool:
        part = self._parts[stack[0]]
        if isinstance(part, str):
            return low <= ord(part[stack[1]]) <= high
        return isinstance(part, Chars) and any(low <= last and first <= high for first, last in part.ranges)

    def _rest(self, stack: Frame) -> Stack:
        """What is left of a stack after the character on its top."""
        number, count, below, _ = stack
        part = self._parts[number]
        return _on(number, below, count + 1) if isinstance(part, str) and count + 1 < len(part) else below

    def _unfold(self, todo: list[Stack]) -> frozenset[Stack]:
        """Every form of the stacks that has a character on top, or nothing left at all."""
        found: set[Stack] = set()
        seen: set[Stack] = set()
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if len(seen) > MAX_FORMS or len(found) > MAX_STACKS:
                raise GrammarTooLarge("the form of the answer can be read in too many ways at once")
            if stack is None or self._is_character(stack[0]):
                found.add(stack)
            else:
                todo += [form for form in self._forms(stack) if form is None or form[3] <= MAX_DEPTH]
        return frozenset(found)

    def _forms(self, stack: Frame) -> Sequence[Stack]:
        number, count, below, _ = stack
        part = self._parts[number]
        if isinstance(part, Seq):
            if count == len(part.parts):
                return (below,)
            rest = below if count + 1 == len(part.parts) else _on(number, below, count + 1)
            return (_on(self._number(part.parts[count]), rest),)
        if isinstance(part, Alt):
            return [_on(self._number(option), below) for option in part.options]
        if isinstance(part, Ref):
            return (_on(self._number(self._rules[part.name]), below),)
        if isinstance(part, Repeat):
            return self._turns(part, number, count, below)
        return (below,)  # an empty text

    def _turns(self, part: Repeat, number: int, count: int, below: Stack) -> Sequence[Stack]:
        forms: list[Stack] = [below] if count >= part.least else []
        if part.most is None or count < part.most:
            # Where there is no most, turns beyond the least are alike.
            turn = count + 1 if part.most is not None else min(count + 1, part.least)
            forms.append(_on(self._number(part.part), _on(number, below, turn)))
        return forms


def _count(parts: Iterable[Part]) -> int:
    """How many there are, those inside of others included; one that is in several places is one."""
    todo = list(parts)
    seen: set[int] = set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Seq):
            todo += part.parts
        elif isinstance(part, Alt):
            todo += part.options
        elif isinstance(part, Repeat):
            todo.append(part.part)
    return len(seen)


def _on(number: int, below: Stack, count: int = 0) -> Frame:
    return (number, count, below, 1 if below is None else below[3] + 1)
