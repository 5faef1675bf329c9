"""Multiples of a number, as parts of a grammar that reads them digit by digit. Pure."""

from __future__ import annotations

from edged.worker.forms.grammar import Chars, Part, Seq, alt

MAX_PARTS = 4000  # a few MB; steps of up to 250 between any bounds


def multiples(step: int, first: int, last: int) -> list[Part]:
    """Multiples of ``step`` from ``first``, at least 0, to ``last``, grouped by their length.

    Raises ValueError when that takes too much.
    """
    walker = _Walker(step)
    found = []
    for length in range(len(str(first)), len(str(max(last, 0))) + 1):
        least, most = max(first, 10 ** (length - 1) if length > 1 else 0), min(last, 10**length - 1)
        part = walker.rest(str(least), str(most), length, 0) if least <= most else None
        if part is not None:
            found.append(part)
    return found


class _Walker:
    def __init__(self, step: int) -> None:
        self._step = step
        self._known: dict[tuple[str | None, str | None, int, int], Part | None] = {}

    def rest(self, low: str | None, high: str | None, left: int, remainder: int) -> Part | None:
        """``left`` more digits behind some that leave ``remainder``; None when there are none.

        They are from ``low`` to ``high``, None where the digits before decide already.
        """
        if not left:
            return None if remainder else ""
        key = (low, high, left, remainder)
        if key not in self._known:
            if len(self._known) >= MAX_PARTS:
                raise ValueError(f"{self._step} is too large for so wide a range")
            self._known[key] = self._digits(low, high, left, remainder)
        return self._known[key]

    def _digits(self, low: str | None, high: str | None, left: int, remainder: int) -> Part | None:
        least, most = int(low[0]) if low else 0, int(high[0]) if high else 9
        options: list[Part] = []
        for digit in range(least, most + 1):
            below = low[1:] if low and digit == least else None
            above = high[1:] if high and digit == most else None
            rest = self.rest(below, above, left - 1, (remainder * 10 + digit) % self._step)
            if rest is not None:
                code = ord("0") + digit
                options.append(Seq((Chars(((code, code),)), rest)))
        return alt(*options) if options else None
