"""One HTTP/1.1 connection that no client can hold for ever: what uvicorn's lacks."""

from __future__ import annotations

import http
import sys
from typing import TYPE_CHECKING

import h11
import msgspec
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol

from edged.api.errors import BadRequest, EdgeError
from edged.transports.http.errors import STATUS, error_object
from edged.transports.http.guards import head_too_large

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import uvicorn
    from uvicorn.server import ServerState

MAX_PIPELINED_BYTES = 65536
MIN_PROGRESS_BYTES = 1024  # a write that moves less than this per period counts as stalled
HEAD_TOO_LARGE = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
HARD_LIMIT_FACTOR = 2  # connections up to this many times the limit still hear why they are refused


class Patience(Struct, frozen=True, kw_only=True):
    """How long clients may take, in seconds."""

    header_s: float = 10.0  # a request line and headers; a person with telnet is the slowest honest client
    body_s: float = 30.0  # 1 MiB over a poor Wi-Fi link
    keep_alive_s: float = 10.0  # idle between requests
    write_s: float = 30.0  # no byte accepted by the peer
    comment_s: float = 15.0  # silence on an event stream; proxies cut at 60 s, some at 30 s
    linger_s: float = 2.0  # reading on after an early refusal
    farewell_s: float = 1.0  # at the stop, for last words to leave
    stop_s: float = 1.0  # for request tasks to end after their connections were cut


class Connection(H11Protocol):
    """uvicorn's protocol plus three bounds: slow headers, stalled writes, pipelined bytes.

    It also reads on while a request is answered, because only a reader notices that the peer is gone.
    """

    def __init__(
        self,
        *,
        config: uvicorn.Config,
        state: ServerState,
        patience: Patience,
        limit: int,
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._patience = patience
        self._limit = limit
        self._on_lost = on_lost
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Writers wait until everything is sent: memory stays bounded and a stall shows at once.
        transport.set_write_buffer_limits(high=0)
        self.app_state["over_limit"] = len(self.connections) > self._limit
        if len(self.connections) > HARD_LIMIT_FACTOR * self._limit:
            transport.abort()
        else:
            self._header_timer = self.loop.call_later(self._patience.header_s, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        self._stop_write_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._on_lost()

    def handle_events(self) -> None:
        super().handle_events()
        if not self.transport.is_closing():
            self._time_headers()
            self._read_on()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._patience.write_s, self._check_write)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn names the reason, always the same
        """What cannot be parsed gets a JSON error too, unless an answer is already under way."""
        if self.conn.our_state is h11.SEND_RESPONSE:  # the body broke off while the application reads it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            error = _parse_error(sys.exc_info()[1])
            status = http.HTTPStatus(STATUS[error.code][0])
            body = msgspec.json.encode(error_object(error))
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=status.phrase.encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def hang_up(self) -> None:
        """Close now when idle, else after the answer that is under way."""
        if not self.transport.is_closing():
            self.shutdown()

    def abort(self) -> None:
        """Cut the connection; unsent bytes are lost."""
        self.transport.abort()

    def _time_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_header_timer()
        elif self._header_timer is None and self.conn.trailing_data[0]:
            self._header_timer = self.loop.call_later(self._patience.header_s, self.transport.abort)

    def _read_on(self) -> None:
        """Undo the pause on pipelined requests, up to a bound."""
        if self.conn.their_state is h11.DONE and self.flow.read_paused:
            if len(self.conn.trailing_data[0]) > MAX_PIPELINED_BYTES:
                self.transport.abort()
            else:
                self.flow.resume_reading()

    def _check_write(self) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        if left_bytes > self._unsent_bytes - MIN_PROGRESS_BYTES:
            self.transport.abort()
            return
        self._unsent_bytes = left_bytes
        self._write_timer = self.loop.call_later(self._patience.write_s, self._check_write)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _parse_error(why: BaseException | None) -> EdgeError:
    """h11 knows one thing that is wrong by its status: too much of a head came, and still no end of it."""
    if isinstance(why, h11.RemoteProtocolError) and why.error_status_hint == HEAD_TOO_LARGE:
        return head_too_large()
    return BadRequest("this is not a valid HTTP request")
