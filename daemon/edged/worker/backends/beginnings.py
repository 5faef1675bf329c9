"""A vocabulary by first bytes: where a form says what comes next, few of its tokens are left to try."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edged.worker.backends.base import Allows

Tokens: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]

_NOTHING = 256  # the group of tokens that stand for no bytes, as the ends of answers


class Beginnings:
    """Four bytes a token. ``pieces`` are the bytes of each, in order."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._alone: dict[int, int] = {}  # byte → the token that is this byte and no more
        firsts = array("h")
        for token, piece in enumerate(pieces):
            firsts.append(piece[0] if piece else _NOTHING)
            if len(piece) == 1:
                self._alone[piece[0]] = token
        groups = np.frombuffer(firsts, dtype=np.int16)
        order = np.argsort(groups, kind="stable").astype(np.int32)
        bounds = np.cumsum(np.bincount(groups, minlength=_NOTHING + 1))
        self._groups: list[Tokens] = np.split(order, bounds[:-1])

    def possible(self, allows: Allows) -> Tokens:
        """All tokens but those whose first byte alone is not allowed."""
        return np.concatenate(
            [
                group
                for byte, group in enumerate(self._groups)
                if byte not in self._alone or allows(self._alone[byte])
            ]
        )
