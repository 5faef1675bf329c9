"""The client's HTTP transport."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from edgectl.client import http_wire as wire
from edgectl.client.http_body import PATHS, body
from edgectl.client.port import expired
from edgectl.client.sse import EventParser
from edgectl.errors import Unhealthy, Unreachable, Usage
from edged.api.events import Timings
from edged.api.status import Info, Status

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator, Iterator

    import httpx

    from edgectl.client.address import HttpAddress
    from edged.api.events import Event
    from edged.api.requests import Request

CONNECT_TIMEOUT_S = 10.0  # a board under full load accepts within a second or two; Wi-Fi may need retries
# A kept connection may be closed by the box in the moment it is used again, and a request that was lost that
# way looks like a box that died. A new one costs a millisecond on a local network; an answer takes seconds.
NO_KEEPALIVE = 0
MAX_REPLY_BYTES = 16 << 20

_Report = TypeVar("_Report", Status, Info)


class HttpTransport:
    """See :class:`edgectl.client.port.Transport`."""

    def __init__(self, address: HttpAddress, *, api_key: str | None, ca_file: str | None) -> None:
        self._url = address.url
        self._api_key = api_key
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None

    def submit(self, request: Request, *, stream: bool, timeout_s: float) -> Generator[Event, None, None]:
        asked = self._client().build_request(
            "POST",
            PATHS[request.op],
            content=body(request, stream=stream),
            headers={"content-type": "application/json"},
            timeout=_timeout(timeout_s),
        )
        begun_s = time.monotonic()
        # Leaving the block before the end closes the connection, which is what cancels over HTTP.
        with (
            self._failures(timeout_s),
            contextlib.closing(self._client().send(asked, stream=True)) as response,
        ):
            if not response.is_success:
                raise wire.failure(response.status_code, response.headers, _read(response))
            if stream:
                yield from _streamed(response, request, begun_s, timeout_s)
            else:
                collected = wire.Collected(request)
                collected.add(wire.chunk(_read(response)))
                if collected.finish is None:
                    raise Unhealthy("the answer has no finish_reason", hint="is that an edged box?")
                yield collected.finished(_measured(begun_s, None))

    def status(self, timeout_s: float) -> Status:
        return self._get("/status", Status, timeout_s)

    def info(self, timeout_s: float) -> Info:
        return self._get("/info", Info, timeout_s)

    def close(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _get(self, path: str, kind: type[_Report], timeout_s: float) -> _Report:
        with self._failures(timeout_s):
            asked = self._client().build_request("GET", path, timeout=_timeout(timeout_s))
            with contextlib.closing(self._client().send(asked, stream=True)) as response:
                raw = _read(response)
        if not response.is_success:
            raise wire.failure(response.status_code, response.headers, raw)
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unhealthy(
                f"what {self._url}{path} says cannot be read: {error}",
                hint="is it an edged box, and of a similar version?",
            ) from None

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._opened is None:
                key = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
                self._opened = httpx.Client(
                    base_url=self._url,
                    headers={"user-agent": "edgectl", "accept-encoding": "identity", **key},
                    verify=_tls(self._ca_file),
                    limits=httpx.Limits(max_keepalive_connections=NO_KEEPALIVE),
                    trust_env=False,  # a box of the local network is not behind the proxy of the environment
                )
            return self._opened

    @contextlib.contextmanager
    def _failures(self, timeout_s: float) -> Iterator[None]:
        """Turns what httpx raises into our errors."""
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(
                f"nothing answers at {self._url}: {_reason(error)}",
                hint="is edged running there? `edgectl status`, on the box `systemctl status edged`",
            ) from None
        except (httpx.ReadTimeout, httpx.PoolTimeout) as error:
            raise expired(timeout_s) from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"the connection to {self._url} broke off: {_reason(error)}",
                hint="ask again; `edgectl status` says whether the box is well",
            ) from error
        except (httpx.InvalidURL, UnicodeError, httpx.HTTPError) as error:
            raise Usage(f"{self._url} cannot be asked: {_reason(error)}") from error


def _streamed(
    response: httpx.Response, request: Request, begun_s: float, timeout_s: float
) -> Generator[Event, None, None]:
    """Deltas, then Finished. Comments keep a connection open but are no news."""
    parser = EventParser()
    collected = wire.Collected(request)
    first_s: float | None = None
    news_s = time.monotonic()
    for portion in response.iter_bytes():
        events = parser.feed(portion)
        now_s = time.monotonic()
        if not events and now_s - news_s > timeout_s:
            raise expired(timeout_s)
        news_s = now_s if events else news_s
        for data in events:
            if data == "[DONE]":
                break
            for delta in collected.add(wire.chunk(data)):
                first_s = first_s or now_s
                yield delta
    if collected.finish is None:
        raise Unreachable(
            f"the answer broke off after {collected.chars} characters",
            hint="ask again; `edgectl status` says whether the box is well",
        )
    yield collected.finished(_measured(begun_s, first_s))


def _read(response: httpx.Response) -> bytes:
    raw = bytearray()
    for portion in response.iter_bytes():
        raw += portion
        if len(raw) > MAX_REPLY_BYTES:
            raise Unhealthy(f"the answer exceeds {MAX_REPLY_BYTES} bytes", hint="is that an edged box?")
    return bytes(raw)


def _timeout(timeout_s: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))


def _measured(begun_s: float, first_s: float | None) -> Timings:
    """Times as seen from here, for servers that do not tell theirs."""
    total_ms = (time.monotonic() - begun_s) * 1000
    return Timings(
        queue_ms=0.0, first_ms=(first_s - begun_s) * 1000 if first_s else total_ms, total_ms=total_ms
    )


def _reason(error: Exception) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def _tls(ca_file: str | None) -> ssl.SSLContext | bool:
    import ssl

    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Usage(f"the CA file {ca_file} cannot be used: {error}") from None
