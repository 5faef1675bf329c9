"""What hangs beside the requests of a node: retained topics that are kept true, and orders about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.transports.mqtt.connection import Connection
    from edged.transports.mqtt.incoming import Incoming


class Board(Protocol):
    """One group of topics; ``changed`` is set by the transport and asks for ``tell``."""

    changed: Callable[[], None]

    @property
    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """(filter, QoS) of what it wants to hear."""

    def receive(self, connection: Connection, message: Incoming) -> bool:
        """Take a message and see to its acknowledgement; False when it is for somebody else."""

    def forget(self) -> None:
        """A new connection: the broker may have lost what it retained."""

    async def tell(self, connection: Connection) -> None:
        """Publish what is not known yet."""


class Retained:
    """What was said on which topic, so that nothing is said twice on one connection."""

    def __init__(self) -> None:
        self._said: dict[str, bytes] = {}

    def forget(self, topic: str | None = None) -> None:
        """Say it again the next time: all, or what stands on ``topic``."""
        if topic is None:
            self._said.clear()
        else:
            self._said.pop(topic, None)

    def others(self, topics: set[str]) -> list[str]:
        """Where something was said, but for ``topics``."""
        return [topic for topic in self._said if topic not in topics]

    async def say(self, connection: Connection, topic: str, payload: bytes) -> None:
        """Publish at QoS 1, retained, what differs from what was said; empty clears the topic."""
        if self._said.get(topic) == payload:
            return
        self._said[topic] = payload
        if await connection.deliver(topic, payload, retain=True) is None or not payload:
            self._said.pop(topic, None)
