"""What HTTP says when something fails: status, error object, retry headers."""

from __future__ import annotations

import http
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from edged.api.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Unauthorized(EdgeError):
    """No API key, or not ours."""

    code = "unauthorized"


class CrossOrigin(EdgeError):
    """A page of another origin asked; browsers of this network are no clients."""

    code = "cross_origin"


class NotFound(EdgeError):
    """There is no such route."""

    code = "not_found"


class ModelNotFound(EdgeError):
    """The request names a model that this box does not serve."""

    code = "model_not_found"


class NoVision(EdgeError):
    """The request shows a picture, and nothing here can see."""

    code = "no_vision"


class ManagedLocally(EdgeError):
    """Models are changed on the box itself, not over the network."""

    code = "managed_locally"


class HeadersTooLarge(EdgeError):
    """The request line and headers exceed what any client needs."""

    code = "headers_too_large"


class WrongMethod(EdgeError):
    """The route exists, but not for this method."""

    code = "method_not_allowed"


class SlowBody(EdgeError):
    """The body did not arrive in time."""

    code = "request_timeout"


class WrongMediaType(EdgeError):
    """The body is not declared to be plain JSON."""

    code = "unsupported_media_type"


class WrongHost(EdgeError):
    """The Host header names another computer: a stale name, or DNS rebinding."""

    code = "misdirected_host"


class TooManyConnections(EdgeError):
    """More clients are connected than ``http.max_connections``."""

    code = "too_many_connections"
    retryable = True


class Refused(EdgeError):
    """A 4xx of the router for which there is no code of its own."""

    code = "refused"


OLLAMA = "/api/"  # below it Ollama's form of an error is spoken: {"error": "..."}
# What Ollama would do to models over the network.
CHANGES = re.compile(r"/api/(pull|push|create|copy|delete|blobs/.*)")

# code → (HTTP status, OpenAI error type). Every request error of edged.api is here, and every one above.
# cancelled is 499: nobody must repeat what somebody stopped, and OpenAI clients do repeat 408, 409 and 5xx.
STATUS: Mapping[str, tuple[int, str]] = {
    "bad_request": (400, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "no_vision": (400, "invalid_request_error"),
    "managed_locally": (403, "permission_error"),
    "cross_origin": (403, "permission_error"),
    "no_box": (404, "invalid_request_error"),
    "not_found": (404, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "request_timeout": (408, "invalid_request_error"),
    "too_large": (413, "invalid_request_error"),
    "unsupported_media_type": (415, "invalid_request_error"),
    "misdirected_host": (421, "invalid_request_error"),
    "refused": (400, "invalid_request_error"),
    "headers_too_large": (431, "invalid_request_error"),
    "busy": (429, "rate_limit_error"),
    "cancelled": (499, "cancelled_error"),
    "internal": (500, "server_error"),
    "engine_lost": (502, "server_error"),
    "loading": (503, "server_error"),
    "draining": (503, "server_error"),
    "memory_guard": (503, "server_error"),
    "thermal": (503, "server_error"),
    "too_many_connections": (503, "server_error"),
    "expired": (504, "server_error"),
}


class JsonResponse(Response):
    """``content`` (anything msgspec encodes) as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def error_object(error: EdgeError) -> dict[str, Any]:
    """``error`` as OpenAI clients expect it; ``param`` is the field that the message starts with."""
    _, kind = STATUS[error.code]
    field = re.match(r"([a-z_]+(?:\[\d+\]|\.\w+)*): ", error.message)
    body: dict[str, Any] = {
        "message": f"{error.message} ({error.hint})" if error.hint else error.message,
        "type": kind,
        "code": error.code,
        "param": field.group(1) if field else None,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    return {"error": body}


def error_response(
    error: EdgeError, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> JsonResponse:
    """The whole answer to a request that failed before anything was sent, in the dialect of ``path``."""
    status, _ = STATUS[error.code]
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.code == Unauthorized.code:
        extra["www-authenticate"] = 'Bearer realm="edged"'
    # Honoured by the OpenAI clients, which otherwise go by the status alone.
    extra["x-should-retry"] = "true" if error.retryable else "false"
    told = error_object(error)
    return JsonResponse(
        {"error": told["error"]["message"]} if path.startswith(OLLAMA) else told, status, extra
    )


def router_error(status: int, method: str, path: str) -> EdgeError:
    """The router's own refusals in our words."""
    if CHANGES.fullmatch(path):
        return ManagedLocally(
            f"{path[:80]}: models are not changed over the network here",
            hint="on the box, `edgectl models pull` fetches one and `edgectl install --model` serves it",
        )
    if status == http.HTTPStatus.NOT_FOUND:
        return NotFound(f"there is no route {path[:80]!r}", hint="GET / lists the routes")
    if status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        return WrongMethod(f"{path[:80]!r} does not take {method[:20]}", hint="see the Allow header")
    return Refused(f"{method[:20]} {path[:80]!r} was refused with status {status}")
