"""Answers that wait for a broker: bounded in number, in bytes and in time (pure but for the futures)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from edged.api.status import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOLD_S = 3600.0  # how long a loss is told; who looks once an hour sees it


class Parcel:
    """One answer on its way to one topic. ``lost`` is done when it is given up."""

    def __init__(self, size_bytes: int, expires_s: float) -> None:
        self.size_bytes = size_bytes
        self.expires_s = expires_s
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Outbox:
    """While the broker is away the oldest answers beyond the bounds are given up, and counted.

    A request that came at QoS 1 is delivered again with the next connection and finds its answer in the
    memory of duplicates; one that came at QoS 0 never had a promise. While the broker is there nothing is
    given up: what is on its way is bounded by the requests that are taken.
    """

    def __init__(self, max_count: int, max_bytes: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self.now_s = clock
        self._parcels: list[Parcel] = []  # oldest first
        self._away = True
        self._lost_at_s: float | None = None
        self.without_room = 0
        self.too_old = 0

    def __len__(self) -> int:
        return len(self._parcels)

    @property
    def size_bytes(self) -> int:
        return sum(parcel.size_bytes for parcel in self._parcels)

    @contextlib.contextmanager
    def holding(self, size_bytes: int) -> Iterator[Parcel]:
        """A place for an answer of so many bytes, until the block ends."""
        parcel = Parcel(size_bytes, self.now_s() + self._ttl_s)
        self._parcels.append(parcel)
        self._make_room()
        try:
            yield parcel
        finally:
            if parcel in self._parcels:
                self._parcels.remove(parcel)

    def expired(self, parcel: Parcel) -> None:
        """Note that ``parcel`` waited too long."""
        if not parcel.lost.done():
            self.too_old += 1
            self._lose(parcel)

    def broker(self, *, away: bool) -> None:
        """The broker went away, or is back."""
        self._away = away
        self._make_room()

    def condition(self) -> Condition | None:
        """What was given up within the last hour; the numbers count from the start of the daemon."""
        if self._lost_at_s is None or self.now_s() - self._lost_at_s > TOLD_S:
            return None
        return Condition(
            code="mqtt_answers_lost",
            severity="warning",
            message=(
                f"{self.without_room + self.too_old} answers were given up while the MQTT broker was away: "
                f"{self.too_old} waited longer than mqtt.outbox_ttl_s, {self.without_room} had no room"
            ),
            hint="requests at QoS 1 are answered once more when the broker delivers them again; "
            "mqtt.outbox and mqtt.outbox_kib make more room",
        )

    def _make_room(self) -> None:
        while self._away and (len(self._parcels) > self._max_count or self.size_bytes > self._max_bytes):
            self.without_room += 1
            self._lose(self._parcels[0])

    def _lose(self, parcel: Parcel) -> None:
        self._lost_at_s = self.now_s()
        self._parcels.remove(parcel)
        parcel.lost.set_result(None)
