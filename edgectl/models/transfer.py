"""One HTTP exchange: ask for the rest of a file, believe nothing about the answer, append the bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx
from msgspec import Struct

from edgectl.models.storage import require_space
from edged import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edgectl.models.partial import Partial
    from edgectl.models.sources import Download, Source

MAX_FILE_BYTES = 256 << 30  # for a server that does not say how long the file is
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Limits(Struct, frozen=True, kw_only=True):
    """How patient a download is.

    A mobile link may be silent for half a minute; below 64 KiB a minute a model would take weeks.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    stall_window_s: float = 60.0
    stall_bytes: int = 64 << 10
    attempts: int = 5  # in a row, for one source, without progress
    progress_bytes: int = 1 << 20  # an attempt that brought this much begins the count anew
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    redirects: int = 8


class Interrupted(Exception):
    """The exchange broke off; trying again may help."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class BadRange(Interrupted):
    """The server answered a request for the rest with something else; only the whole file will do."""


class Refused(Exception):
    """This source does not have the file for us."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class WrongBytes(Exception):
    """This source has other bytes under that name."""


class WrongOffer(WrongBytes):
    """It said so before it sent any: what is here need not go."""


class Exchange(Struct, frozen=True, kw_only=True):
    """What every request of a download shares."""

    client: httpx.Client
    limits: Limits
    token: Callable[[str], str | None]
    progress: Callable[[int, int | None], None]  # bytes that are there, bytes in all


class Pace:
    """Watches that a body comes at the least speed that ``limits`` demand."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._start_s = time.monotonic()
        self._bytes = 0

    def count(self, size_bytes: int) -> None:
        """Say that ``size_bytes`` came. Raises Interrupted when that is too slow."""
        self._bytes += size_bytes
        elapsed_s = time.monotonic() - self._start_s
        if elapsed_s < self._limits.stall_window_s:
            return
        if self._bytes < self._limits.stall_bytes:
            raise Interrupted(f"only {self._bytes:,} bytes came in {elapsed_s:.0f} s")
        self._start_s, self._bytes = time.monotonic(), 0


def receive(
    exchange: Exchange, source: Source, part: Partial, wanted: Download, *, whole: bool = False
) -> None:
    """Append to ``part`` what is missing, or replace its bytes with the ``whole`` file.

    Raises Interrupted, Refused, WrongBytes, or an EdgeError about the disk.
    """
    offset_bytes = 0 if whole else part.size_bytes
    headers = {"Accept-Encoding": "identity", "User-Agent": f"edgectl/{__version__}"}
    if offset_bytes:
        headers["Range"] = f"bytes={offset_bytes}-"
    with opened(exchange, source.url, headers) as response:
        total_bytes = _check_answer(response, offset_bytes, wanted.size_bytes)
        if response.status_code == httpx.codes.OK and part.size_bytes:
            part.restart()  # the server sends everything again
        if wanted.size_bytes is None and total_bytes is not None:
            require_space(part.path.parent, total_bytes - part.size_bytes, wanted.label)
        total_bytes = wanted.size_bytes or total_bytes
        _stream(exchange, response, part, total_bytes)
    if total_bytes is not None and part.size_bytes < total_bytes:
        raise Interrupted(f"the answer ended after {part.size_bytes:,} of {total_bytes:,} bytes")


def _stream(exchange: Exchange, response: httpx.Response, part: Partial, total_bytes: int | None) -> None:
    most_bytes = total_bytes or MAX_FILE_BYTES
    pace = Pace(exchange.limits)
    for data in response.iter_raw():
        if part.size_bytes + len(data) > most_bytes:
            raise WrongBytes(f"it sends more than the {most_bytes:,} bytes of the file")
        part.write(data)
        exchange.progress(part.size_bytes, total_bytes)
        pace.count(len(data))


def _check_answer(response: httpx.Response, offset_bytes: int, wanted_bytes: int | None) -> int | None:
    """The size of the whole file as the answer tells it; raises unless the body is what was asked for."""
    check_status(response, ranged=offset_bytes > 0)
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        total_bytes = _range_total(response.headers.get("content-range", ""), offset_bytes)
    else:
        length = response.headers.get("content-length", "")
        total_bytes = int(length) if length.isascii() and length.isdigit() else None
    if wanted_bytes is not None and total_bytes not in (None, wanted_bytes):
        raise WrongOffer(f"it offers {total_bytes:,} bytes, not {wanted_bytes:,}")
    if total_bytes is not None and total_bytes > MAX_FILE_BYTES:
        raise WrongOffer(f"it offers {total_bytes:,} bytes, more than any model has")
    return total_bytes


def check_status(response: httpx.Response, *, ranged: bool) -> None:
    """Raise Interrupted or Refused unless the body holds plain bytes of the file.

    ``ranged`` says that a part of the file was asked for.
    """
    status = response.status_code
    if status == httpx.codes.OK or (status == httpx.codes.PARTIAL_CONTENT and ranged):
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Refused(f"it sends the file encoded ({encoding})")
        return
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and ranged:
        raise BadRange("it has no bytes beyond those that are here")
    if status in _TRY_AGAIN:
        raise Interrupted(
            f"it answers {status} {response.reason_phrase}", retry_after_s=_retry_after(response)
        )
    hint = ""
    if status in (401, 403):
        hint = "if the repository asks for an account: `hf auth login`, or set HF_TOKEN"
    raise Refused(f"it answers {status} {response.reason_phrase}", hint=hint)


def _range_total(text: str, offset_bytes: int) -> int | None:
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if found is None or int(found[1]) != offset_bytes or int(found[2]) < offset_bytes:
        raise BadRange(f"it answers with the range {text[:80]!r} instead of bytes {offset_bytes:,} and on")
    if found[3] == "*":
        return None
    if int(found[2]) >= int(found[3]):
        raise BadRange(f"it answers with the impossible range {text[:80]!r}")
    return int(found[3])


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


@contextmanager
def opened(exchange: Exchange, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """The answer after redirects. The token goes only where ``exchange.token`` says, on each hop.

    Raises Interrupted or Refused, also for what breaks while the body is read.
    """
    try:
        for _ in range(exchange.limits.redirects + 1):
            token = exchange.token(url)
            hop_headers = {**headers, "Authorization": f"Bearer {token}"} if token else headers
            with exchange.client.stream("GET", url, headers=hop_headers, follow_redirects=False) as response:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                url = _next_url(url, response.headers.get("location", ""))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Refused(f"its address cannot be used: {error}") from error
    except httpx.TransportError as error:
        raise _transport_outcome(error) from error
    raise Refused(f"it redirects more than {exchange.limits.redirects} times")


def _next_url(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
    except ValueError:
        raise Refused("it redirects to something that is no address") from None
    if not location or parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused("it redirects to something that is no web address")
    if urlsplit(url).scheme == "https" and parts.scheme != "https":
        raise Refused("it redirects from https to http, where anybody on the way could change the file")
    return target


def _transport_outcome(error: httpx.TransportError) -> Interrupted | Refused:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Refused(
            "its certificate cannot be verified",
            hint="is the clock right? `timedatectl` shows it, `date` too",
        )
    if isinstance(error, httpx.TimeoutException):
        kind = "connect" if isinstance(error, httpx.ConnectTimeout) else "send anything"
        return Interrupted(f"it did not {kind} in time")
    return Interrupted(text)
