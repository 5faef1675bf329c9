"""Every error edged can report to a person or a client, with its stable code."""

from __future__ import annotations

from typing import ClassVar

SHOWN_CHARS = 160


def shown(text: str, most_chars: int = SHOWN_CHARS) -> str:
    """``text`` that holds words from outside as it may stand in a message: one line, printable and short."""
    return "".join(char if char.isprintable() else "?" for char in text[:most_chars])


class EdgeError(Exception):
    """The root: a stable ``code``, whether trying again can help, and what to do next.

    ``message`` says what happened and to what; ``hint`` says what to do about it.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s


# --- errors of one request ---------------------------------------------------------------


class BadRequest(EdgeError):
    """The request is malformed: unknown field, wrong type, value out of range."""

    code = "bad_request"


class TooLarge(EdgeError):
    """The prompt or payload exceeds a limit of this box."""

    code = "too_large"


class Busy(EdgeError):
    """The queue is full; ``retry_after_s`` says when to come back."""

    code = "busy"
    retryable = True


class Expired(EdgeError):
    """The request's time to live ran out before it was answered."""

    code = "expired"


class Loading(EdgeError):
    """The model is not ready (yet, or again)."""

    code = "loading"
    retryable = True


class MemoryGuard(EdgeError):
    """Memory is short; the request was shed to keep the box alive."""

    code = "memory_guard"
    retryable = True


class Thermal(EdgeError):
    """The box is hot or weakly powered and takes less work, or none, until it is not."""

    code = "thermal"
    retryable = True


class Cancelled(EdgeError):
    """The client asked for the request to stop."""

    code = "cancelled"


class NoBox(EdgeError):
    """No box has what the request needs: the operation, the model, its size, its context."""

    code = "no_box"


class EngineLost(EdgeError):
    """The engine process died or was killed while it worked on this request."""

    code = "engine_lost"
    retryable = True


class Internal(EdgeError):
    """A defect of edged; the log has the details."""

    code = "internal"
    retryable = True


class Draining(EdgeError):
    """The daemon is stopping."""

    code = "draining"
    retryable = True


# --- errors of the box ------------------------------------------------------------------


class ConfigInvalid(EdgeError):
    """The configuration breaks one or more rules; ``problems`` lists all of them."""

    code = "config"

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            f"{source} is not valid:{lines}", hint="`edgectl config check` shows this list again"
        )
        self.source = source
        self.problems = problems


class PortInUse(EdgeError):
    """A listening address is already taken."""

    code = "port_in_use"


class AddressMissing(EdgeError):
    """The computer does not have an address to listen on, or not yet."""

    code = "no_address"


class ModelUnusable(EdgeError):
    """The model file is missing, damaged or of a kind the engine cannot load."""

    code = "model"


REQUEST_ERRORS: tuple[type[EdgeError], ...] = (
    BadRequest, TooLarge, Busy, Expired, Loading, MemoryGuard, Thermal, Cancelled, NoBox, EngineLost,
    Internal, Draining,
)  # fmt: skip
BY_CODE: dict[str, type[EdgeError]] = {kind.code: kind for kind in REQUEST_ERRORS}
