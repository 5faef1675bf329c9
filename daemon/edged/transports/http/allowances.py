"""What each key may ask: its own limits, kept before a request gets in line with all others."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec import structs

from edged.api.errors import BadRequest, Busy, EdgeError
from edged.api.events import Failed
from edged.host.keys import MAX_KEYS, StoredKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from edged.api.events import Event
    from edged.api.requests import Request
    from edged.transports.http.auth import KeyRing
    from edged.transports.port import Service

CLIENT_PREFIX = "key:"  # and the key's name: the client that the service knows
MINUTE_S = 60.0
ANSWER_S = 2.0  # when one of a key's own requests may be over; nobody knows better here
UNLIMITED = StoredKey(salt="", hash="")  # a key that was removed while its last request arrived


def client_of_key(name: str) -> str:
    return CLIENT_PREFIX + name


class _Used:
    """What one key has used: the times of its last requests, and how many are unanswered."""

    def __init__(self) -> None:
        self.times: deque[float] = deque()
        self.running = 0


class LimitedService:
    """The service as clients with keys meet it: what is above a key's limits is a Failed like any refusal."""

    def __init__(self, service: Service, ring: KeyRing, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._ring = ring
        self._clock = clock
        self._used: dict[str, _Used] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        name = request.client.removeprefix(CLIENT_PREFIX)
        used = self._usage(name)
        try:
            allowed = self._within(request, name, used)
        except EdgeError as error:
            yield Failed.of(request.id, error)
            return
        used.running += 1
        try:
            async with aclosing(self._service.submit(allowed)) as events:
                async for event in events:
                    yield event
        finally:
            used.running -= 1

    def _usage(self, name: str) -> _Used:
        if len(self._used) > MAX_KEYS:  # keys come and go over the years
            self._used = {kept: used for kept, used in self._used.items() if self._ring.key(kept)}
        return self._used.setdefault(name, _Used())

    def _within(self, request: Request, name: str, used: _Used) -> Request:
        """``request`` as the key allows it, counted. Raises Busy, or BadRequest for what it never allows."""
        key = self._ring.key(name) or UNLIMITED
        wanted = request.max_tokens
        if key.max_tokens and wanted is not None and wanted > key.max_tokens:
            # Not 429: trying again would never help, and OpenAI clients do try again.
            raise BadRequest(f"max_tokens: the key {name!r} allows {key.max_tokens} at most")
        if key.at_once and used.running >= key.at_once:
            raise Busy(
                f"the key {name!r} has {used.running} requests unanswered and may have {key.at_once}",
                retry_after_s=ANSWER_S,
            )
        self._count(name, key, used)
        if key.max_tokens and wanted is None and request.op in {"chat", "generate"}:
            most = min(key.max_tokens, self._service.limits.default_max_tokens)
            return structs.replace(request, max_tokens=most)
        return request

    def _count(self, name: str, key: StoredKey, used: _Used) -> None:
        if not key.per_minute:
            used.times.clear()
            return
        now = self._clock()
        while used.times and (used.times[0] <= now - MINUTE_S or len(used.times) > key.per_minute):
            used.times.popleft()
        if len(used.times) >= key.per_minute:
            wait_s = math.ceil((used.times[0] + MINUTE_S - now) * 10) / 10
            raise Busy(
                f"the key {name!r} has used its {key.per_minute} requests of this minute",
                retry_after_s=wait_s,
            )
        used.times.append(now)
