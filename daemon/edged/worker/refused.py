"""The one error for what a client asked in vain, and words for errors of our own."""

from __future__ import annotations

import traceback
from pathlib import Path

WHY_CHARS = 400  # of what a client is told


class Refused(Exception):
    """A request that cannot be answered as it is; the text tells its client why."""


def defect(error: Exception) -> str:
    """The kind of an error that nobody foresaw and its place, without its text, which may be a client's."""
    places = traceback.extract_tb(error.__traceback__)[-1:]
    return type(error).__name__ + "".join(f" in {Path(at.filename).name}, line {at.lineno}" for at in places)
