"""Reads the header of a GGUF file on a web server, with Range requests and without its weights."""

from __future__ import annotations

import io
import re
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import httpx
from msgspec import Struct

from edgectl.errors import DownloadFailed, IntegrityError
from edgectl.models.gguf import Header, read_header
from edgectl.models.sources import hub_token
from edgectl.models.transfer import (
    MAX_FILE_BYTES,
    Exchange,
    Interrupted,
    Limits,
    Pace,
    Refused,
    check_status,
    opened,
)
from edged import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from edgectl.models.sources import Source

BLOCK_BYTES: Final = 1 << 19  # so much, and the reader's window, may come in vain; 12 MiB take 24 requests
KEPT_BLOCKS: Final = 4  # a header is read front to back, so older ones are not asked for again
MAX_FETCHED_BYTES: Final = 64 << 20  # five times the largest header of a real model; a liar gets no more
PATIENCE: Final = Limits(attempts=3)  # somebody waits for an answer of some megabytes
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class RemoteHeader(Struct, frozen=True, kw_only=True):
    """A header and how many bytes of the file, and requests, it took to read it."""

    header: Header
    fetched_bytes: int
    requests: int


def read_remote_header(
    source: Source,
    *,
    keep: Collection[str] = (),
    limits: Limits = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> RemoteHeader:
    """The header of the file that ``source`` offers; ``keep`` as in `read_header`.

    Raises DownloadFailed when the server does not give what is needed, IntegrityError when what it gives
    contradicts itself or is no GGUF file.
    """
    with remote_file(source, limits=limits, sleep=sleep) as remote:
        header = read_header(io.BufferedReader(remote), keep=keep)
        return RemoteHeader(header=header, fetched_bytes=remote.fetched_bytes, requests=remote.requests)


@contextmanager
def remote_file(
    source: Source, *, limits: Limits = PATIENCE, sleep: Callable[[float], None] = time.sleep
) -> Iterator[RemoteFile]:
    """The file of ``source``, open for reading."""
    with httpx.Client(timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s)) as client:
        exchange = Exchange(client=client, limits=limits, token=hub_token, progress=lambda _done, _all: None)
        yield RemoteFile(exchange, source, sleep)


class _Block(Struct, frozen=True):
    """A part of the file as one answer gave it; ``version`` is what the server calls these bytes."""

    data: bytes
    file_bytes: int
    version: str


class RemoteFile(io.RawIOBase):
    """A seekable file that asks the server for the blocks that are read, and for no others."""

    def __init__(self, exchange: Exchange, source: Source, sleep: Callable[[float], None]) -> None:
        self._exchange = exchange
        self._source = source
        self._sleep = sleep
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._first: _Block | None = None  # what later answers must agree with; its data lies in _blocks
        self._position = 0
        self.fetched_bytes = 0
        self.requests = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file, as the first answer told it."""
        if self._first is None:
            self._block(0)
        assert self._first is not None  # noqa: S101 - the block above set it
        return self._first.file_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        self._position = max(0, offset + (self.size_bytes if base is None else base))
        return self._position

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]  # what BufferedReader gives
        if self._position >= self.size_bytes:
            return 0
        index, offset = divmod(self._position, BLOCK_BYTES)
        data = self._block(index)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _block(self, index: int) -> bytes:
        if index in self._blocks:
            self._blocks.move_to_end(index)
            return self._blocks[index].data
        block = self._fetch(index * BLOCK_BYTES)
        self._first = self._first or _Block(b"", block.file_bytes, block.version)
        self._blocks[index] = block
        if len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return block.data

    def _fetch(self, start: int) -> _Block:
        """The block that begins at byte ``start``, in as many attempts as the limits allow."""
        limits = self._exchange.limits
        for failures in range(1, limits.attempts + 1):
            try:
                return self._ask(start)
            except Interrupted as error:
                if failures == limits.attempts:
                    raise self._failed(f"{error} ({failures} times)") from error
                pause_s = min(limits.backoff_max_s, limits.backoff_s * 2 ** (failures - 1))
                self._sleep(max(pause_s, min(error.retry_after_s or 0.0, limits.backoff_max_s)))
            except Refused as error:
                raise self._failed(str(error), error.hint) from error
        raise AssertionError("a download has at least one attempt")

    def _ask(self, start: int) -> _Block:
        end = start + BLOCK_BYTES
        if self._first is not None:
            end = min(end, self._first.file_bytes)
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": f"edgectl/{__version__}",
            "Range": f"bytes={start}-{end - 1}",
        }
        self.requests += 1
        with opened(self._exchange, self._source.url, headers) as response:
            file_bytes, length = self._promised(response, start, end)
            version = response.headers.get("etag") or response.headers.get("last-modified", "")
            self._require_same(file_bytes, version)
            return _Block(self._body(response, length), file_bytes, version)

    def _promised(self, response: httpx.Response, start: int, end: int) -> tuple[int, int]:
        """Bytes of the whole file and of this answer; raises unless it is the part that was asked for."""
        said = response.headers.get("content-range", "").strip()
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and said == "bytes */0":
            raise self._wrong("the file there is empty")
        check_status(response, ranged=True)
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            raise self._failed(
                "it sends the whole file when asked for its beginning (no Range requests)",
                "fetch the file, then name it here: `edgectl models inspect FILE`",
            )
        found = _CONTENT_RANGE.fullmatch(said)
        if found is None:
            raise self._wrong(
                f"it answers with the range {said[:80]!r}, which does not say where and how long"
            )
        first, last, file_bytes = (int(text) for text in found.groups())
        if file_bytes > MAX_FILE_BYTES:
            raise self._wrong(f"it offers {file_bytes:,} bytes, more than any model has")
        if first != start or last != min(end, file_bytes) - 1:
            raise self._wrong(f"it answers with the range {said!r} when asked for bytes {start}-{end - 1}")
        return file_bytes, last + 1 - first

    def _require_same(self, file_bytes: int, version: str) -> None:
        if self._first is not None and (file_bytes, version) != (self._first.file_bytes, self._first.version):
            raise self._failed("the file changed while its header was read", "run it again")

    def _body(self, response: httpx.Response, length: int) -> bytes:
        """The ``length`` bytes of the answer. Raises Interrupted when fewer come, or too slowly."""
        body, pace = bytearray(), Pace(self._exchange.limits)
        for data in response.iter_raw():
            body += data
            self.fetched_bytes += len(data)
            if len(body) > length:
                raise self._wrong(f"it sends more than the {length:,} bytes that it promised")
            if self.fetched_bytes > MAX_FETCHED_BYTES:
                raise self._wrong(f"its header is longer than {MAX_FETCHED_BYTES >> 20} MiB")
            pace.count(len(data))
        if len(body) < length:
            raise Interrupted(f"the answer ended after {len(body):,} of {length:,} bytes")
        return bytes(body)

    def _failed(self, what: str, hint: str = "") -> DownloadFailed:
        return DownloadFailed(
            f"the header of {self._source.label} could not be read: {what}",
            hint=hint or "check the address and the network, and run it again",
        )

    def _wrong(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the header of {self._source.label} cannot be trusted: {what}",
            hint="try another source; something there, or on the way, alters files",
        )
