"""Regular expressions of JSON schemas as parts of a grammar that writes JSON strings. Pure.

The language is what ECMA and Python agree on: characters, classes, groups, choices, repetitions, and
anchors at the ends. As in JSON Schema, a pattern without anchors may match anywhere in the text.
"""

from __future__ import annotations

from typing import NoReturn

from edged.worker.forms.grammar import Alt, Chars, Part, Ranges, Repeat, Seq, alt, optional, without
from edged.worker.forms.json_parts import CHARACTER, PLAIN

MAX_PATTERN_CHARS = 512
MAX_TURNS = 256
MAX_GROUPS = 16  # inside each other

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
_ASCII: Ranges = ((0x20, 0x7E),)
_ALL: Ranges = ((0x00, 0xD7FF), (0xE000, 0x10FFFF))
_ESCAPES = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C}
_WRITTEN = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r"}
_SPECIAL = frozenset("\\^$.|?*+()[]{}")


class PatternError(Exception):
    """The pattern is none, or uses what is not supported; the text says what."""


def text_like(pattern: object) -> Part:
    """The inside of a JSON string whose text matches ``pattern``. Raises PatternError."""
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARS:
        raise PatternError(f"must be a text of at most {MAX_PATTERN_CHARS} characters")
    return _Reader(pattern).whole()


def _written(ranges: Ranges) -> Part:
    """One character out of ``ranges`` as JSON writes it in a string."""
    plain = tuple(
        (max(low, first), min(high, last))
        for low, high in ranges
        for first, last in PLAIN
        if low <= last and first <= high
    )
    escaped = [text for code, text in _WRITTEN.items() if any(low <= code <= high for low, high in ranges)]
    if not plain and not escaped:
        raise PatternError("a class of no characters that JSON can hold")
    return alt(*([Chars(plain)] if plain else []), *escaped)


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._groups = 0

    def whole(self) -> Part:
        options = [self._anchored()]
        while self._take("|"):
            options.append(self._anchored())
        if self._at < len(self._pattern):
            self._fail("is not closed" if self._peek() != ")" else "closes nothing")
        return alt(*options)

    def _anchored(self) -> Part:
        """One choice at the top, where anchors may stand."""
        begin: Part = "" if self._take("^") else Repeat(CHARACTER)
        body = self._sequence()
        end: Part = "" if self._take("$") else Repeat(CHARACTER)
        return Seq((begin, body, end))

    def _choice(self) -> Part:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return alt(*options)

    def _sequence(self) -> Part:
        items: list[Part] = []
        while self._at < len(self._pattern) and self._peek() not in {"|", ")", "$"}:
            items.append(self._repeated(*self._atom()))
        return Seq(tuple(items))

    def _atom(self) -> tuple[Part, bool]:
        """One part, and whether it may be empty."""
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return _written(self._class()), False
        if char == ".":
            return _written(without(_ALL, ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)))), False
        if char == "\\":
            return _written(self._escape()), False
        if char in _SPECIAL and char not in "]}":
            self._fail(f"{char} is not supported here")
        return _written(((ord(char), ord(char)),)), False

    def _group(self) -> tuple[Part, bool]:
        self._groups += 1
        if self._groups > MAX_GROUPS:
            self._fail("too many groups")
        if self._take("?") and not self._take(":"):
            self._fail("groups with ? other than (?: are not supported")
        inside = self._choice()
        if not self._take(")"):
            self._fail("a group is not closed, or holds an anchor")
        return inside, _may_be_empty(inside)

    def _repeated(self, part: Part, empty: bool) -> Part:  # noqa: FBT001 - what _atom returned
        char = self._peek()
        if char == "" or char not in "*+?{":
            return part
        self._at += 1
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char) or self._turns()
        self._take("?")  # the same texts match, lazily or not
        if self._peek() != "" and self._peek() in "*+?{":
            self._fail("a repetition of a repetition")
        if (least, most) == (0, 1):
            return optional(part)
        if empty:
            self._fail("a repetition of what may be empty")
        return Repeat(part, least, most)

    def _turns(self) -> tuple[int, int | None]:
        text, closed, _ = self._pattern[self._at :].partition("}")
        least, comma, most = text.partition(",")
        numbers = [least, *([most] if most else [])]
        if not closed or not all(number.isdecimal() and len(number) < 5 for number in numbers):
            self._fail("{ must begin a number of turns")
        self._at += len(text) + 1
        low = int(least)
        high = low if not comma else int(most) if most else None
        if max(low, high or 0) > MAX_TURNS or (high is not None and high < low):
            self._fail(f"turns must be in order and at most {MAX_TURNS}")
        return low, high

    def _class(self) -> Ranges:
        negative = self._take("^")
        start = self._at
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member()
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in {"]", ""}:
                self._at += 1
                last = self._member()
                if not _single(first) or not _single(last) or first[0][0] > last[0][0]:
                    self._fail("a range of a class is not in order")
                first = ((first[0][0], last[0][0]),)
            found += first
        if not negative:
            return tuple(found)
        # Beyond ASCII the languages differ in what is a digit, a letter or a blank.
        named = any(name in self._pattern[start : self._at] for name in ("\\d", "\\w", "\\s"))
        return without(_ASCII if named else _ALL, tuple(found))

    def _member(self) -> Ranges:
        char = self._next()
        if char == "[":
            self._fail("[ in a class must be written \\[")
        return self._escape() if char == "\\" else ((ord(char), ord(char)),)

    def _escape(self) -> Ranges:
        char = self._next()
        classes = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
        if char.lower() in classes:
            named = classes[char.lower()]
            return named if char in classes else without(_ASCII, named)
        if char in {"x", "u"}:
            width = 2 if char == "x" else 4
            digits = self._pattern[self._at : self._at + width]
            self._at += width
            try:
                code = int(digits, 16) if len(digits) == width else -1
            except ValueError:
                code = -1
            if code < 0:
                self._fail(f"\\{char} needs {width} hexadecimal digits")
            return ((code, code),)
        if char.isalnum():
            self._fail(f"\\{char} is not supported")
        code = _ESCAPES.get(char, ord(char))
        return ((code, code),)

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            self._fail("ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, char: str) -> bool:
        found = self._peek() == char
        self._at += found
        return found

    def _fail(self, why: str) -> NoReturn:
        raise PatternError(f"{why} (character {self._at})")


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _may_be_empty(part: Part) -> bool:
    if isinstance(part, Seq):
        return all(map(_may_be_empty, part.parts))
    if isinstance(part, Alt):
        return any(map(_may_be_empty, part.options))
    if isinstance(part, Repeat):
        return part.least == 0
    return part == ""
