"""Sends the command line on an errand: a child process that tells in lines of JSON how it gets on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from edged.maintenance.records import JobFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LINE_BYTES = 1 << 20
TERM_GRACE_S = 5.0  # to note what arrived of a download
HIDDEN = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"}


async def errand(
    *words: str,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    heard: Callable[[dict[str, Any]], None] = lambda _line: None,
) -> dict[str, Any]:
    """Run ``edgectl WORDS``; its line of event "done". Other lines go to ``heard``.

    Raises JobFailed with the code of its line of event "failed", or with ``timeout`` after ``limit_s``.
    The child has ended when this returns, raises or is cancelled.
    """
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgectl", *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            env={**kept, **(env or {})},
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise JobFailed("command", f"edgectl cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(limit_s):
            last_words = asyncio.create_task(_tail(process.stderr))
            told = await _listen(process.stdout, heard)
            status = await process.wait()
            stderr = await last_words
    except TimeoutError:
        raise JobFailed("timeout", f"not done after {limit_s:.0f} s") from None
    finally:
        await _end(process)
    if told.get("event") == "done":
        return told
    if told.get("event") == "failed":
        raise JobFailed(
            str(told.get("code") or "internal"), str(told.get("message")), hint=str(told.get("hint") or "")
        )
    raise JobFailed("command", f"edgectl ended with status {status}: {stderr or 'without a word'}")


async def _listen(
    stream: asyncio.StreamReader | None, heard: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The line of event "done" or "failed"; empty when there was none."""
    outcome: dict[str, Any] = {}
    while stream is not None and (line := await stream.readline()):
        try:
            told = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if told.get("event") in {"done", "failed"}:
            outcome = told
        else:
            heard(told)
    return outcome


async def _tail(stream: asyncio.StreamReader | None) -> str:
    """The last lines, for people."""
    lines: deque[str] = deque(maxlen=3)
    while stream is not None and (line := await stream.readline()):
        lines.append(line.decode("utf-8", "replace").strip())
    return " ".join(line for line in lines if line)[-500:]


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the child and reap it, whatever it does."""
    for number, patience_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, TERM_GRACE_S)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
