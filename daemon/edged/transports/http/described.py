"""A route, and beside it what `/openapi.json` says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable


class About(Struct, frozen=True, kw_only=True):
    """What clients send and get. A type by its name is one of `openapi_answers`, imported when somebody asks.

    With a ``body`` the method is POST, and the errors of work are possible; without, it is GET.
    ``stream`` is one event of the stream that ``"stream": true`` asks for. ``others`` are answers that are
    no errors and have a status of their own, ``errors`` the codes that this route alone can give.
    """

    summary: str
    body: type[Struct] | None = None
    answer: type | str = ""  # empty: text
    media_type: str = "application/json"
    also_as: tuple[str, ...] = ()  # media types of the same, for those who ask for them
    stream: type | str = ""
    stream_media_type: str = "text/event-stream"
    others: tuple[tuple[int, type | str], ...] = ()
    errors: tuple[str, ...] = ()
    error: str = "ErrorObject"

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


class Described(Route):
    """A route with its entry in the document."""

    def __init__(self, path: str, endpoint: Callable[..., Any], about: About) -> None:
        super().__init__(path, endpoint, methods=[about.method])
        self.about = about
