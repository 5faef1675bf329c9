"""Home Assistant: tells it of this box, and takes what its buttons say."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from edged.host.files import read_text, write_atomic
from edged.host.quiet import QuietLog
from edged.transports.mqtt.board import Retained
from edged.transports.mqtt.home_assistant_device import PREFIX, config_topic, device_config
from edged.transports.mqtt.topics import ANNOUNCED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.incoming import Incoming
    from edged.transports.mqtt.topics import Topics
    from edged.transports.port import Service

BIRTH_TOPIC = f"{PREFIX}/status"


class HomeAssistant:
    """See :class:`edged.transports.mqtt.board.Board`. ``buttons`` maps what they say to what they do."""

    def __init__(
        self,
        topics: Topics,
        service: Service,
        buttons: Mapping[str, Callable[[], None]],
        *,
        state_dir: Path,
        last_answer: bool,
    ) -> None:
        self._topics = topics
        self._service = service
        self._buttons = buttons
        self._record = state_dir / ANNOUNCED
        self._last_answer = last_answer
        self._retained = Retained()
        self._log = QuietLog(logging.getLogger(__name__), time.monotonic)
        self.changed: Callable[[], None] = lambda: None

    @property
    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        return ((BIRTH_TOPIC, 0), (self._topics.model, 1))

    def receive(self, connection: Connection, message: Incoming) -> bool:
        if message.topic not in {BIRTH_TOPIC, self._topics.model}:
            return False
        if message.qos:
            connection.acknowledge(message.mid)
        if message.topic == BIRTH_TOPIC:
            if message.payload == b"online":
                self._retained.forget()
                self.changed()
            return True
        press = self._buttons.get(message.payload[:16].decode("utf-8", "replace"))
        if press is None or message.retain:  # a retained one would unload after each reconnect
            known = ", ".join(self._buttons)
            self._log.warning("ignored %.32r on %s: %s, not retained", message.payload, message.topic, known)
        else:
            self._log.info("%s: %s", message.topic, message.payload.decode())
            press()
        return True

    def forget(self) -> None:
        self._retained.forget()

    async def tell(self, connection: Connection) -> None:
        topic = config_topic(self._topics.node)
        await withdraw(connection, self._record.parent, but=topic)
        if read_text(self._record) != topic:
            with contextlib.suppress(OSError):  # without the record, it is taken back by hand
                self._record.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._record, topic)
        config = device_config(self._topics, self._service.info(), last_answer=self._last_answer)
        await self._retained.say(connection, topic, msgspec.json.encode(config))


class Withdrawal:
    """Takes a discovery message back that this box published when Home Assistant was switched on."""

    subscriptions: tuple[tuple[str, int], ...] = ()

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.changed: Callable[[], None] = lambda: None

    def receive(self, connection: Connection, message: Incoming) -> bool:  # noqa: ARG002 - it hears nothing
        return False

    def forget(self) -> None:
        """Nothing is remembered but the record."""

    async def tell(self, connection: Connection) -> None:
        await withdraw(connection, self._state_dir)


async def withdraw(connection: Connection, state_dir: Path, *, but: str = "") -> None:
    """Clear the discovery message on record, unless it stands on ``but``, and the record with it."""
    record = state_dir / ANNOUNCED
    topic = read_text(record)
    if topic and topic != but and await connection.deliver(topic, b"", retain=True) is not None:
        with contextlib.suppress(OSError):
            record.unlink()
