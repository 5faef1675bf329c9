"""Runs a piece of untrusted work in bounded time and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

AGAIN_S = 0.1  # the alarm repeats, should the first one strike in a finalizer, which swallows exceptions


class OutOfTime(BaseException):
    """The work took too long. No Exception, so that ``except Exception`` inside the work cannot eat it."""


@contextlib.contextmanager
def confined(*, seconds: float, extra_bytes: int) -> Iterator[None]:
    """Raise OutOfTime in the block after ``seconds``, and MemoryError when it wants ``extra_bytes`` more.

    The time limit is a signal, so both hold in the main thread only; elsewhere
    this does nothing. A single operation of C code is bounded by its memory alone; one
    that runs on stops the process's heartbeat too, which the supervisor answers with SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _address_space(extra_bytes), _alarm(seconds):
        yield


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    handler = signal.signal(signal.SIGALRM, _expire)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # it may strike just before it is switched off
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, *timer)  # somebody else's; it is late by our time


def _expire(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise OutOfTime


@contextlib.contextmanager
def _address_space(extra_bytes: int) -> Iterator[None]:
    """Let the process map at most ``extra_bytes`` more than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split(maxsplit=1)[0])
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + extra_bytes
    lowest = min((limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY), default=wanted)
    resource.setrlimit(resource.RLIMIT_AS, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
