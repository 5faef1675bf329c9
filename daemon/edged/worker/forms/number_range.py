"""Numbers between two bounds, as parts of a grammar that reads them digit by digit. Pure."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

from msgspec import Struct

from edged.worker.forms.grammar import Chars, Part, Repeat, Seq, alt, optional
from edged.worker.forms.json_parts import DIGIT, MAX_DIGITS
from edged.worker.forms.multiples import multiples

MAX_BOUND_DIGITS = 20  # on either side of the point of a bound
_SPARE_DIGITS = 6  # a number just beside an open bound may need more digits than the bound


class Bound(Struct, frozen=True):
    """A limit that a number may reach, or with ``open`` may not."""

    value: Decimal
    open: bool = False


def between(low: Bound | None, high: Bound | None, *, step: int | None = None) -> Part | None:
    """Numbers from ``low`` to ``high`` without exponents; with a ``step`` its multiples only.

    None when there are none. Raises ValueError for a bound of too many digits, or too large a step.
    """
    for bound in (low, high):
        if bound is not None:
            _check(bound.value)
    zero = Bound(Decimal(0))
    options: list[Part] = []
    if high is None or high.value >= 0:
        options += _magnitudes(zero if low is None or low.value < 0 else low, high, step)
    if low is None or low.value < 0:
        least = _negated(high) if high is not None and high.value < 0 else Bound(Decimal(0), open=True)
        most = None if low is None else _negated(low)
        options += [Seq(("-", part)) for part in _magnitudes(least, most, step)]
    return alt(*options) if options else None


def _check(value: Decimal) -> None:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or max(-exponent, value.adjusted()) >= MAX_BOUND_DIGITS:
        raise ValueError(f"the bound {value} has too many digits")


def _negated(bound: Bound) -> Bound:
    return Bound(-bound.value, bound.open)


def _magnitudes(low: Bound, high: Bound | None, step: int | None) -> list[Part]:
    """Numbers of at least 0 without a sign."""
    if high is None:
        digits = max(MAX_DIGITS, len(str(_floor(low.value))) + 1)
        high = Bound(Decimal(10) ** digits, open=True)
    if low.value > high.value or (low.value == high.value and (low.open or high.open)):
        return []
    return _decimals(low, high) if step is None else _wholes(low, high, step)


def _wholes(low: Bound, high: Bound, step: int) -> list[Part]:
    first = -_floor(-low.value)
    last = _floor(high.value)
    first += low.open and first == low.value
    last -= high.open and last == high.value
    return _naturals(first, last) if step == 1 else multiples(step, first, last)


def _decimals(low: Bound, high: Bound) -> list[Part]:
    first, last = _floor(low.value), _floor(high.value)
    above, below = _fraction(low.value), _fraction(high.value)
    if first == last:
        return _with_fraction(str(first), _Fraction(above, below, low.open, high.open))
    return [
        *_with_fraction(str(first), _Fraction(above, None, low.open)),
        *(Seq((part, _ANY_FRACTION)) for part in _naturals(first + 1, last - 1)),
        *_with_fraction(str(last), _Fraction(None, below, open_high=high.open)),
    ]


def _naturals(first: int, last: int) -> list[Part]:
    """Whole numbers from ``first``, at least 0, to ``last``, grouped by their length."""
    parts = []
    for length in range(len(str(first)), len(str(max(last, 0))) + 1):
        least, most = max(first, 10 ** (length - 1) if length > 1 else 0), min(last, 10**length - 1)
        if least <= most:
            parts.append(_digits(str(least), str(most)))
    return parts


def _digits(low: str, high: str) -> Part:
    """Digit strings of one length from ``low`` to ``high``."""
    if not low:
        return ""
    if low[0] == high[0]:
        return Seq((low[0], _digits(low[1:], high[1:])))
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    options: list[Part] = []
    if low[1:] != "0" * rest:
        options.append(Seq((low[0], _digits(low[1:], "9" * rest))))
        first += 1
    if high[1:] != "9" * rest:
        options.append(Seq((high[0], _digits("0" * rest, high[1:]))))
        last -= 1
    if first <= last:
        options.append(Seq((_digit(first, last), Repeat(DIGIT, rest, rest))))
    return alt(*options)


class _Fraction(Struct, frozen=True):
    """Digits behind the point from ``low`` to ``high``; None where the whole part decides already."""

    low: str | None
    high: str | None
    open_low: bool = False
    open_high: bool = False

    def may_end(self) -> bool:
        """Whether no further digit is needed."""
        above = self.low is None or (not self.low and not self.open_low)
        return above and (self.high is None or bool(self.high) or not self.open_high)

    def after(self, digit: int) -> _Fraction | None:
        """What holds for the digits behind ``digit``; None when it may not come."""
        low, high = self.low, self.high
        if low is not None:
            bound = int(low[:1] or 0)
            if digit < bound:
                return None
            low = low[1:] if digit == bound else None
        if high is not None:
            bound = int(high[:1] or 0)
            if digit > bound:
                return None
            high = high[1:] if digit == bound else None
        return _Fraction(low, high, self.open_low, self.open_high)


_ANY_FRACTION = optional(Seq((".", Repeat(DIGIT, 1, MAX_DIGITS))))


def _with_fraction(whole: str, fraction: _Fraction) -> list[Part]:
    spare = max(len(fraction.low or ""), len(fraction.high or "")) + _SPARE_DIGITS
    digits = _fractions(fraction, spare)
    options: list[Part] = [] if digits is None else [Seq((".", digits))]
    if fraction.may_end():
        options.append("")
    return [Seq((whole, alt(*options)))] if options else []


def _fractions(fraction: _Fraction, spare: int) -> Part | None:
    """One digit or more within ``fraction``; None when there is none of at most ``spare`` digits."""
    if spare == 0:
        return None
    if fraction.low is None and fraction.high is None:
        return Repeat(DIGIT, 1, spare)
    groups: dict[_Fraction, list[int]] = {}
    for digit in range(10):
        rest = fraction.after(digit)
        if rest is not None:
            groups.setdefault(rest, []).append(digit)
    options: list[Part] = []
    for rest, found in groups.items():
        more = _fractions(rest, spare - 1)
        ends: list[Part] = [""] if rest.may_end() else []
        tails = ends if more is None else [*ends, more]
        if tails:
            options.append(Seq((_digit(found[0], found[-1]), alt(*tails))))
    return alt(*options) if options else None


def _digit(first: int, last: int) -> Chars:
    return Chars(((ord("0") + first, ord("0") + last),))


def _floor(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_FLOOR))


def _fraction(value: Decimal) -> str:
    """The digits behind the point, without zeros at the end."""
    return format(value - _floor(value), "f").partition(".")[2].rstrip("0")
