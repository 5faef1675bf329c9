"""What keeps a scenario from being measured."""

from __future__ import annotations


class BenchError(Exception):
    """A server did not do what is to be measured, or is not there; the text has its words."""
