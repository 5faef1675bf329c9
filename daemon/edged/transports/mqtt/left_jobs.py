"""Ends jobs that were open when jobs were switched off; else their `executing` would stand there for ever."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edged.transports.mqtt.jobs import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from edged.maintenance.records import Record
    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.topics import Topics

log = logging.getLogger(__name__)


class LeftJobs:
    """Tells how ``records`` ended, once, and removes their ``journal``; see Board."""

    subscriptions: tuple[tuple[str, int], ...] = ()

    def __init__(self, topics: Topics, records: Iterable[Record], journal: Path) -> None:
        self._root = f"{topics.root}/job/"
        self._records = list(records)
        self._journal = journal
        self.changed: Callable[[], None] = lambda: None

    def receive(self, connection: Connection, message: Incoming) -> bool:  # noqa: ARG002 - it hears nothing
        return False

    def forget(self) -> None:
        """What was told is told."""

    async def tell(self, connection: Connection) -> None:
        while self._records:
            one = self._records[0]
            topic = f"{self._root}{one.type}/{one.id}"
            if await connection.deliver(topic, render(one), retain=True) is None:
                return  # again on the next connection
            self._records.pop(0)
        try:
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s stays, and is told of again at the next start: %s", self._journal, error)
