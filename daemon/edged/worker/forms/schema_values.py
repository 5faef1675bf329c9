"""The values of a JSON schema that hold no other schemas: texts, numbers, constants, keys. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from edged.worker.forms import json_parts as parts
from edged.worker.forms.grammar import Alt, Chars, Part, Repeat, Seq, alt, chars, optional, without
from edged.worker.forms.number_range import Bound, between
from edged.worker.forms.pattern import PatternError, text_like
from edged.worker.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_ENUM = 500
MAX_LENGTH = 4096  # of texts and lists, where the schema bounds them


class SchemaError(Refused):
    """A schema asks for what cannot be enforced; the text names the keyword and its place."""


def refuse(place: str, why: str) -> NoReturn:
    raise SchemaError(f"{place}: {why}")


def string(schema: dict[str, Any], place: str) -> Part:
    """A text; ``format`` is an annotation, enforced where it is known and nothing else is asked for."""
    least, most = bounds(schema, "minLength", "maxLength", place)
    pattern = schema.get("pattern")
    if pattern is not None:
        if (least, most) != (0, None):
            refuse(f"{place}.pattern", "is not supported beside minLength and maxLength")
        try:
            return Seq(('"', text_like(pattern), '"'))
        except PatternError as error:
            refuse(f"{place}.pattern", str(error))
    form = FORMATS.get(str(schema.get("format")))
    if form is not None and (least, most) == (0, None):
        return Seq(('"', form, '"'))
    return Seq(('"', Repeat(parts.CHARACTER, least, most), '"'))


def number(schema: dict[str, Any], place: str, *, whole: bool) -> Part:
    low = _limit(schema, ("minimum", "exclusiveMinimum"), max, place)
    high = _limit(schema, ("maximum", "exclusiveMaximum"), min, place)
    step = _step(schema, place) or (1 if whole else None)
    if low is None and high is None and step in {None, 1}:
        return parts.INTEGER if step else parts.NUMBER
    try:
        part = between(low, high, step=step)
    except ValueError as error:
        refuse(place if step in {None, 1} else f"{place}.multipleOf", str(error))
    if part is None:
        refuse(place, "no number is within the bounds")
    return part


def _step(schema: dict[str, Any], place: str) -> int | None:
    value = schema.get("multipleOf")
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        refuse(f"{place}.multipleOf", "can be enforced for whole numbers from 1")
    return value


def _limit(
    schema: dict[str, Any], keywords: tuple[str, str], tighter: Callable[..., Bound], place: str
) -> Bound | None:
    bounds = []
    for keyword in keywords:
        value = schema.get(keyword)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(f"{place}.{keyword}", "must be a number")
        bounds.append(Bound(Decimal(str(value)), open=keyword.startswith("exclusive")))
    sign = 1 if tighter is max else -1
    return tighter(bounds, key=lambda bound: (bound.value, sign * bound.open)) if bounds else None


def constants(
    schema: dict[str, Any], kinds: Iterable[str] | None, ignored: frozenset[str], place: str
) -> Part:
    keyword = "const" if "const" in schema else "enum"
    values = fixed(schema)
    if values is None or not 1 <= len(values) <= MAX_ENUM:
        refuse(f"{place}.{keyword}", f"must be a list of 1 to {MAX_ENUM} values")
    extra = set(schema) - ignored - {keyword, "type"}
    if extra:
        refuse(f"{place}.{min(extra)}", f"is not supported beside {keyword}")
    fitting = [value for value in values if kinds is None or _is_of(value, kinds)]
    if not fitting:
        refuse(f"{place}.{keyword}", "no value is of the type")
    return alt(*map(parts.literal, fitting))


def fixed(schema: Any) -> list[Any] | None:
    """The values a schema names, if it does."""
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _is_of(value: Any, kinds: Iterable[str]) -> bool:
    found = {
        bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, str: {"string"}, list: {"array"},
        dict: {"object"}, type(None): {"null"},
    }[type(value)]  # fmt: skip
    return bool(found & set(kinds))


def bounds(schema: dict[str, Any], least: str, most: str, place: str) -> tuple[int, int | None]:
    found = []
    for keyword in (least, most):
        value = schema.get(keyword)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            refuse(f"{place}.{keyword}", "must be a whole number from 0")
        if value is not None and value > MAX_LENGTH:
            refuse(f"{place}.{keyword}", f"can be enforced up to {MAX_LENGTH}")
        found.append(value)
    low, high = found[0] or 0, found[1]
    if high is not None and low > high:
        refuse(f"{place}.{least}", f"is above {most}")
    return low, high


def other_key(names: Iterable[str]) -> Part:
    """A key, written plainly, that is none of ``names``."""
    return Seq(('"', _other_than({name for name in names if "\\" not in parts.literal(name)})))


def _other_than(names: set[str]) -> Part:
    """The rest of a key and its closing quote, when the rest must be none of ``names``."""
    tree: dict[str, set[str]] = {}
    for name in names:
        if name:
            tree.setdefault(name[0], set()).add(name[1:])
    taken = tuple((ord(char), ord(char)) for char in tree)
    free = Seq((Chars(without(parts.PLAIN, taken)), Repeat(Chars(parts.PLAIN)), '"'))
    options: list[Part] = [free, *(Seq((char, _other_than(rest))) for char, rest in sorted(tree.items()))]
    return Alt(tuple(options if "" in names else [*options, '"']))


def _digits(count: int) -> Part:
    return Repeat(parts.DIGIT, count, count)


def _hex(count: int) -> Part:
    return Repeat(chars("0-9a-f"), count, count)


def _one_of(texts: str) -> Part:
    return Alt(tuple(texts.split()))


_DAY_28 = Alt((Seq(("0", chars("1-9"))), Seq(("1", parts.DIGIT)), Seq(("2", chars("0-8")))))
_DAY_30 = Alt((_DAY_28, _one_of("29 30")))
_MONTH_AND_DAY = Alt(
    (
        Seq((_one_of("01 03 05 07 08 10 12"), "-", Alt((_DAY_30, "31")))),
        Seq((_one_of("04 06 09 11"), "-", _DAY_30)),
        Seq(("02-", _DAY_28)),
    )
)
_DATE = Seq((chars("1-2"), _digits(3), "-", _MONTH_AND_DAY))
_HOUR = Alt((Seq((chars("01"), parts.DIGIT)), Seq(("2", chars("0-3")))))
_SIXTY = Seq((chars("0-5"), parts.DIGIT))
_ZONE = Alt(("Z", Seq((chars("+-"), _HOUR, ":", _SIXTY))))
_SECONDS = Seq((_SIXTY, optional(Seq((".", Repeat(parts.DIGIT, 1, 6))))))
_TIME = Seq((_HOUR, ":", _SIXTY, ":", _SECONDS, _ZONE))
_BYTE = Alt(
    (
        Seq(("25", chars("0-5"))),
        Seq(("2", chars("0-4"), parts.DIGIT)),
        Seq(("1", _digits(2))),
        Seq((chars("1-9"), parts.DIGIT)),
        parts.DIGIT,
    )
)
FORMATS: dict[str, Part] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": Seq((_DATE, "T", _TIME)),
    "uuid": Seq((_hex(8), "-", _hex(4), "-", _hex(4), "-", _hex(4), "-", _hex(12))),
    "ipv4": Seq((_BYTE, ".", _BYTE, ".", _BYTE, ".", _BYTE)),
}
