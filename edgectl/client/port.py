"""What a transport of the client does; the one thing EdgeClient knows about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edged.api.errors import Expired

if TYPE_CHECKING:
    from collections.abc import Generator

    from edged.api.events import Event
    from edged.api.requests import Request
    from edged.api.status import Info, Status


class Transport(Protocol):
    """Carries requests to one box and events back; connects when it is first used."""

    def submit(self, request: Request, *, stream: bool, timeout_s: float) -> Generator[Event, None, None]:
        """Events of ``request`` in order; the last one is Finished. Deltas only with ``stream``.

        Closing the generator early cancels the request on the box. Raises the EdgeError the request failed
        with, Unreachable when the box is not there (any more), Expired when nothing came for ``timeout_s``.
        """

    def status(self, timeout_s: float) -> Status: ...

    def info(self, timeout_s: float) -> Info: ...

    def close(self) -> None:
        """Let go of connections and threads; may be called twice."""


def expired(timeout_s: float) -> Expired:
    """What a transport raises when nothing came for too long."""
    return Expired(
        f"no answer within {timeout_s:g} s; the request was cancelled",
        hint="give it more time (--timeout, timeout_s); `edgectl status` says what keeps the box busy",
    )
