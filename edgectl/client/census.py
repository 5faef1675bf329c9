"""Asks boxes that were found how they are, all at once, and waits for none of them longer than it is told."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.client.boxes import Box
from edged.api.errors import EdgeError
from edged.api.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

ASKERS = 32  # connections at once


class Sight(Struct, frozen=True, kw_only=True):
    """A box, and its status or why there is none."""

    box: Box
    status: Status | None = None
    problem: str = ""


def ask_all(boxes: Sequence[Box], within_s: float) -> list[Sight]:
    """One Sight for each of ``boxes``, in their order, after ``within_s`` at the latest.

    Whoever announces itself may be a stranger: no key and no password is sent.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[int, Sight]] = queue.SimpleQueue()
    for index in range(len(boxes)):
        waiting.put(index)

    def asker() -> None:
        while True:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            answers.put((index, _ask(boxes[index], within_s)))

    # Daemons: one that a box keeps waiting, byte by byte, does not keep the command from ending.
    for _ in range(min(ASKERS, len(boxes))):
        threading.Thread(target=asker, name="census", daemon=True).start()
    silent = f"no answer within {within_s:g} s"
    seen = [Sight(box=box, problem=silent) for box in boxes]
    end_s = time.monotonic() + within_s
    for _ in boxes:
        try:
            index, sight = answers.get(timeout=max(0.0, end_s - time.monotonic()))
        except queue.Empty:
            break
        seen[index] = sight
    return seen


def address(box: Box) -> str | None:
    """Where ``box`` can be asked from here without a key; None where it cannot."""
    if box.url and box.auth != "yes":
        return box.url
    return f"mqtt://{box.broker}/{box.topic}" if box.mqtt and box.topic else None


def _ask(box: Box, within_s: float) -> Sight:
    from edgectl.client.edge_client import EdgeClient

    where = address(box)
    if where is None:
        return Sight(box=box, problem="needs its key" if box.url else "only the box itself can ask it")
    try:
        with EdgeClient(where, timeout_s=within_s) as client:
            return Sight(box=box, status=client.status())
    except EdgeError as error:
        return Sight(box=box, problem=error.message)
