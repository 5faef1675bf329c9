"""The one error for what a client asked in vain."""

from __future__ import annotations


class Refused(Exception):
    """A request that cannot be answered as it is; the text tells its client why."""
