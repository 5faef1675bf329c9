"""What the daemon logs while a target runs: nobody outside may add a line to it."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def one_line_each() -> Iterator[None]:
    """AssertionError at the end when a message had a line break or a control character in it."""
    said, logger = _Said(), logging.getLogger("edged")
    logger.addHandler(said)
    try:
        yield
    finally:
        logger.removeHandler(said)
    for line in said.lines:
        assert line.isprintable(), line
