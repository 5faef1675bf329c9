"""Changes JSON as a tree, because bytes changed at random seldom stay JSON."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, float("nan"),
    float("inf"), "", "x", "a\n", "\x00", "\x1b[31m", "\u2028", "\ud800", "\ufffe", "\U0001f600", "é" * 40,
    "x" * 200, "#", "$SYS/x", "edged/box/ask", "{}", '{"type": "object"}', "null", [], [[]], {}, [None],
)  # fmt: skip
DEEP = 600


def mutate(
    payload: bytes, words: Sequence[str], seed: int, bytewise: Callable[[bytes], bytes]
) -> bytes | None:
    """``payload`` with a few changes; None when it is no JSON object."""
    luck = random.Random(seed)
    try:
        tree = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict):
        return None
    for _ in range(luck.randint(1, 3)):
        place = _place(tree, luck)
        change = luck.choice((_put, _put, _change, _remove, _wrap))
        change(place, words, luck, bytewise)
    try:
        return json.dumps(tree, ensure_ascii=luck.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return None


def _place(tree: Any, luck: random.Random) -> Any:
    """A list or an object somewhere in ``tree``."""
    while True:
        inner = [
            one for one in (tree.values() if isinstance(tree, dict) else tree) if isinstance(one, dict | list)
        ]
        if not inner or luck.random() < 0.4:
            return tree
        tree = luck.choice(inner)


def _keys(place: Any) -> list[Any]:
    return list(place) if isinstance(place, dict) else list(range(len(place)))


def _leaf(words: Sequence[str], luck: random.Random) -> Any:
    return json.loads(json.dumps(luck.choice(LEAVES))) if luck.random() < 0.8 else luck.choice(words)


def _put(place: Any, words: Sequence[str], luck: random.Random, _: Any) -> None:
    value = _leaf(words, luck)
    if isinstance(place, dict):
        place[luck.choice(words)] = value
    else:
        place.insert(luck.randint(0, len(place)), value)


def _change(
    place: Any, words: Sequence[str], luck: random.Random, bytewise: Callable[[bytes], bytes]
) -> None:
    if not place:
        return
    key = luck.choice(_keys(place))
    value = place[key]
    if isinstance(value, str):
        place[key] = bytewise(value.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    elif isinstance(value, int | float) and luck.random() < 0.7:
        place[key] = luck.choice((-value, value + 1, value * 1000, value / 3, str(value)))
    else:
        place[key] = _leaf(words, luck)


def _remove(place: Any, _words: Any, luck: random.Random, _: Any) -> None:
    if place:
        del place[luck.choice(_keys(place))]


def _wrap(place: Any, words: Sequence[str], luck: random.Random, _: Any) -> None:
    """A value of ``place`` inside others, or next to itself many times."""
    if not place:
        return
    key = luck.choice(_keys(place))
    value = place[key]
    place[key] = luck.choice(
        (
            [value],
            [value] * (2 if isinstance(value, dict | list) else luck.randint(2, 300)),
            {luck.choice(words): value},
            _deep(value),
        )
    )


def _deep(value: Any) -> Any:
    for _ in range(DEEP):
        value = [value]
    return value
