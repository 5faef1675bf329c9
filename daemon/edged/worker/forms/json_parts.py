"""The parts of a grammar that JSON is made of. Pure.

Blanks are bounded, because small models like to go on with them for ever.
"""

from __future__ import annotations

import json
from typing import Any

from edged.worker.forms.grammar import Alt, Chars, Part, Ref, Repeat, Seq, alt, chars, optional

# What stands for itself in a string: everything but quotes, backslashes and control characters. Surrogates
# are no characters.
PLAIN = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0xA0, 0xD7FF), (0xE000, 0x10FFFF))
DIGIT = chars("0-9")
MAX_DIGITS = 16  # what a double holds exactly
BLANK = Alt(("", " ", Seq(("\n", Repeat(chars(" \t"), 0, 20)))))

_HEX = chars("0-9a-fA-F")
# \ud800 to \udfff are halves of a character; whole ones come as they are.
_HEX_CHARACTER = Alt(
    (
        Seq((chars("0-9a-cA-CefEF"), _HEX, _HEX, _HEX)),
        Seq((chars("dD"), chars("0-7"), _HEX, _HEX)),
    )
)
CHARACTER = Alt((Chars(PLAIN), Seq(("\\", Alt((chars('"\\/bfnrt'), Seq(("u", _HEX_CHARACTER))))))))
STRING = Seq(('"', Repeat(CHARACTER), '"'))
INTEGER = Seq((optional("-"), Alt(("0", Seq((chars("1-9"), Repeat(DIGIT, 0, MAX_DIGITS - 1)))))))
_FRACTION = Seq((".", Repeat(DIGIT, 1, MAX_DIGITS)))
_EXPONENT = Seq((chars("eE"), optional(chars("+-")), Repeat(DIGIT, 1, 2)))
NUMBER = Seq((INTEGER, optional(_FRACTION), optional(_EXPONENT)))
BOOLEAN = Alt(("true", "false"))
NULL = "null"
# Names of the rules in VALUES.
VALUE = Ref("value")
OBJECT = Ref("object")
ARRAY = Ref("array")


def literal(value: Any) -> str:
    """``value`` as JSON writes it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def member(key: Part, value: Part) -> Part:
    """``"key": value``; ``key`` with its quotes."""
    return Seq((key, ":", optional(" "), value))


def array(item: Part, least: int = 0, most: int | None = None) -> Part:
    """``least`` to ``most`` items."""
    if most == 0:
        return Seq(("[", BLANK, "]"))
    more = Repeat(Seq((",", BLANK, item)), max(0, least - 1), None if most is None else most - 1)
    items = Seq((item, more, BLANK))
    return Seq(("[", BLANK, items if least else optional(items), "]"))


def members(listed: list[tuple[bool, Part]], more: Part | None = None) -> Part:
    """An object: members in their order, each after whether it must be there, then any number of ``more``."""
    after: Part = "" if more is None else Repeat(Seq((",", BLANK, more)))
    first: Part = "" if more is None else optional(Seq((more, after)))
    for must, one in reversed(listed):
        begins, follows = Seq((one, after)), Seq((",", BLANK, one, after))
        first = begins if must else Alt((begins, first))
        after = follows if must else Alt((follows, after))
    return Seq(("{", BLANK, first, BLANK, "}"))


VALUES: dict[str, Part] = {
    "value": alt(OBJECT, ARRAY, STRING, NUMBER, BOOLEAN, NULL),
    "object": members([], member(STRING, Ref("value"))),
    "array": array(Ref("value")),
}
