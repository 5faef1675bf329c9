"""What a dialect of text generation is: it reads a body, and writes the events of the answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from edged.api.requests import Limits
from edged.api.status import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.api.errors import EdgeError
    from edged.api.events import Delta, Finished
    from edged.api.requests import Request


class Asking(Struct, frozen=True, kw_only=True):
    """What is known of a request besides its body."""

    model: ModelInfo
    limits: Limits
    request_id: str
    client: str


class Answer(Protocol):
    """The answer to one request, whole or piece by piece of a stream; only one of the two is asked for."""

    @property
    def request(self) -> Request: ...

    @property
    def stream(self) -> bool: ...

    def whole(self, event: Finished) -> Any:
        """What is sent as JSON."""

    def opening(self) -> bytes: ...

    def delta(self, event: Delta) -> bytes: ...

    def silence(self) -> bytes:
        """What keeps proxies from cutting a stream on which nothing is said."""

    def closing(self, event: Finished) -> bytes: ...

    def failure(self, error: EdgeError) -> bytes:
        """The end of a stream that failed after it began."""


class Told(Struct, frozen=True):
    """An answer that needs no engine: what is sent as JSON."""

    body: Any


class Dialect(Protocol):
    """``names`` are those of a request's fields where the dialect calls them otherwise."""

    @property
    def stream_type(self) -> bytes: ...

    @property
    def names(self) -> Mapping[str, str]: ...

    def read(self, raw: bytes, asking: Asking) -> Answer | Told:
        """Raises EdgeError, naming the field."""


def renamed(error: EdgeError, names: Mapping[str, str]) -> EdgeError:
    """``error`` with the field that its message begins with called by its name in the dialect."""
    field = re.match(r"[a-z_]+(?=[\[.:])", error.message)
    if field is None or field[0] not in names:
        return error
    message = names[field[0]] + error.message[field.end() :]
    return type(error)(message, hint=error.hint, retry_after_s=error.retry_after_s)
