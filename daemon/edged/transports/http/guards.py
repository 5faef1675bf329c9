"""What stands before every route: ids, size of the head, connections, Host and Origin, key, body size."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from email.utils import formatdate
from typing import TYPE_CHECKING

from edged.api.errors import EdgeError, Internal, TooLarge
from edged.transports.http.allowances import client_of_key
from edged.transports.http.errors import (
    CrossOrigin,
    HeadersTooLarge,
    TooManyConnections,
    Unauthorized,
    WrongHost,
    error_response,
)
from edged.transports.http.hosts import is_own_host, is_own_origin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edged.transports.http.auth import KeyRing

log = logging.getLogger(__name__)

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})  # probes carry no key, and must work on a crowded box
OWN_FETCHES = frozenset({"same-origin", "none"})  # from a page of ours, or typed by a person
MAX_HEADERS = 100
MAX_HEAD_BYTES = 16 << 10  # h11's bound on what arrives piece by piece
LINGER_BYTES = 4 << 20  # of an unwanted upload read on, so that the client gets to see why


def header_values(scope: Scope, name: bytes) -> list[str]:
    """All values of the header ``name`` (lower case) in order."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def head_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"more than {MAX_HEADERS} headers, or {MAX_HEAD_BYTES} bytes of them and the target"
    )


def defect() -> Internal:
    """What a client hears of an exception that nobody expected."""
    return Internal("edged failed on this request", hint="its log has the details")


class Boundary:
    """Outermost: every answer gets an id and safe headers, every failure one JSON error."""

    def __init__(self, app: ASGIApp, *, linger_s: float) -> None:
        self._app = app
        self._linger_s = linger_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, receive, send, self._linger_s)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except EdgeError as error:
            await exchange.fail(error)
        except Exception:  # the root of a request's task
            log.exception("request failed: id=%s path=%.80r", exchange.request_id, scope["path"])
            await exchange.fail(defect())


class _Exchange:
    """One request and its answer, as it passes the boundary."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, linger_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._linger_s = linger_s
        self._started = False
        self._closing = False
        self._body_pending = _announces_body(scope)
        scope["state"]["request_id"] = f"http-{secrets.token_hex(8)}"

    @property
    def request_id(self) -> str:
        """Ours, or the client's own once the codec has accepted it."""
        return str(self._scope["state"]["request_id"])

    async def fail(self, error: EdgeError) -> None:
        """Answer with ``error`` unless an answer is under way; that one is cut off."""
        if not self._started:
            await error_response(error, path=self._scope["path"])(self._scope, self.receive, self.send)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            self._body_pending = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self._closing = self._body_pending
            headers = list(message.get("headers", []))
            own = {name for name, _ in headers}
            headers += [header for header in self._headers() if header[0] not in own]
            await self._send({**message, "headers": headers})
        elif self._closing and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._discard_body()
            await self._send({"type": "http.response.body"})
        else:
            await self._send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"date", formatdate(usegmt=True).encode()),
            (b"x-request-id", self.request_id.encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        return [*headers, (b"connection", b"close")] if self._closing else headers

    async def _discard_body(self) -> None:
        """Read on for a moment: closing with unread bytes resets the connection and loses the answer."""
        seen_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                while self._body_pending and seen_bytes < LINGER_BYTES:
                    seen_bytes += len((await self.receive()).get("body", b""))


def _announces_body(scope: Scope) -> bool:
    lengths = header_values(scope, b"content-length")
    return bool(header_values(scope, b"transfer-encoding")) or any(length != "0" for length in lengths)


class HeaderLimit:
    """Refuses heads that are too large though they came at once; h11 counts only what is incomplete."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        size_bytes = len(scope["raw_path"]) + len(scope["query_string"])
        size_bytes += sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADERS or size_bytes > MAX_HEAD_BYTES:
            raise head_too_large()
        await self._app(scope, receive, send)


class ConnectionLimit:
    """Refuses requests on connections above the limit; health probes pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"].get("over_limit") and scope["path"] not in HEALTH_PATHS:
            raise TooManyConnections(
                "too many clients are connected", hint="http.max_connections sets the limit", retry_after_s=5
            )
        await self._app(scope, receive, send)


class OwnHostOnly:
    """Refuses requests meant for another host, and those that pages of other origins make."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["raw_path"].startswith(b"/"):
            raise WrongHost("this is no proxy: the request target must be a path")
        host = "".join(header_values(scope, b"host"))  # h11 lets at most one through
        if not is_own_host(host, self._names, scope["server"][0]):
            raise WrongHost(
                f"the Host header {host[:80]!r} does not name this computer",
                hint="use its address, its host name or that name with .local",
            )
        for origin in header_values(scope, b"origin"):
            if not is_own_origin(origin, host):
                raise CrossOrigin(f"pages of {origin[:80]!r} may not use this API")
        if _is_foreign_fetch(scope):
            raise CrossOrigin("a page of another origin may link to this box, but not load anything from it")
        await self._app(scope, receive, send)


def _is_foreign_fetch(scope: Scope) -> bool:
    """Whether a browser says that another origin's page loads this; links that a person follows are none.

    Images and scripts of foreign pages are asked for without an Origin header (Fetch Metadata, section 2).
    """
    sites = header_values(scope, b"sec-fetch-site")
    if all(site in OWN_FETCHES for site in sites):
        return False
    followed = header_values(scope, b"sec-fetch-dest") == ["document"]
    return not (followed and scope["method"] == "GET")


class KeyRequired:
    """Refuses requests without a key on every path but the health probes; notes whose key it is, if one's."""

    def __init__(self, app: ASGIApp, *, ring: KeyRing) -> None:
        self._app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = self._name(scope)
        if name is not None:
            scope["state"]["client"] = client_of_key(name)
        elif scope["path"] not in HEALTH_PATHS:
            raise Unauthorized(
                "this box needs an API key",
                hint="send `Authorization: Bearer KEY`; `edgectl keys add NAME` on the box makes one",
            )
        await self._app(scope, receive, send)

    def _name(self, scope: Scope) -> str | None:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return None
        scheme, _, token = values[0].partition(b" ")
        return self._ring.name_of(token.strip()) if scheme.lower() == b"bearer" else None


class BodyLimit:
    """Refuses bodies above ``max_bytes``: by their announced length, else as soon as they exceed it."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(int(length) > self._max_bytes for length in header_values(scope, b"content-length")):
            raise self._too_large()
        seen_bytes = 0

        async def counted() -> Message:
            nonlocal seen_bytes
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body exceeds {self._max_bytes} bytes", hint="http.max_body_bytes sets the limit"
        )
