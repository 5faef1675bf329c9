"""The service as transports see it; the one thing they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from edged.api.events import Event
    from edged.api.requests import Limits, Request
    from edged.api.status import Info, Status


class Service(Protocol):
    """Requests in, events out; exactly one terminal event (Finished or Failed) a request."""

    @property
    def limits(self) -> Limits: ...

    @property
    def ready(self) -> bool:
        """A model is loaded and new requests are taken."""

    @property
    def room(self) -> int:
        """Requests that would begin at once, without waiting for a slot."""

    @property
    def capacity(self) -> int:
        """Requests that may be accepted and unanswered at once: slots + queue."""

    def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """Accepted, deltas, then one terminal event; a refusal is a Failed and nothing else.

        Closing the generator early cancels the request and frees its slot.
        Never raises for a bad request: that is a Failed event too.
        """

    def cancel(self, client: str, request_id: str) -> bool:
        """End a request with Failed(code="cancelled"); False when it is not known (any more)."""

    def status(self) -> Status: ...

    def info(self) -> Info: ...
