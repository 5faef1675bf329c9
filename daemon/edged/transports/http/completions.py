"""The endpoint of every dialect that generates text: read the body, submit it, deliver the events."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from edged.api.events import Delta, Failed, Finished
from edged.transports.http.dialect import Asking, Told, renamed
from edged.transports.http.errors import JsonResponse, SlowBody, WrongMediaType
from edged.transports.http.guards import defect, header_values
from edged.transports.http.watching import ClientGone, Voice, connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

    from edged.api.errors import EdgeError
    from edged.api.events import Event
    from edged.transports.http.connection import Patience
    from edged.transports.http.dialect import Answer, Dialect
    from edged.transports.port import Service

_JSON = re.compile(r"application/json\s*(;\s*charset=\"?utf-?8\"?\s*)?", re.IGNORECASE)


class Completions:
    """An ASGI endpoint, so that it sees the client hang up even while it has nothing to send."""

    def __init__(self, service: Service, dialect: Dialect, patience: Patience) -> None:
        self._service = service
        self._dialect = dialect
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises EdgeError while nothing has been sent; afterwards failures go into the stream."""
        check_media_type(scope)
        try:
            raw = await read_body(receive, self._patience.body_s)
            answer = self._dialect.read(raw, asking(scope, self._service))
            if isinstance(answer, Told):
                await JsonResponse(answer.body)(scope, receive, send)
                return
            scope["state"]["request_id"] = answer.request.id
            events = self._service.submit(answer.request)
            async with connected(receive), aclosing(events):
                deliver = self._stream if answer.stream else self._whole
                await deliver(answer, events, scope, receive, send)
        except ClientGone:
            return

    async def _whole(
        self,
        answer: Answer,
        events: AsyncGenerator[Event, None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async for event in events:
            if isinstance(event, Failed):
                raise self._error(event)
            if isinstance(event, Finished):
                await JsonResponse(answer.whole(event))(scope, receive, send)
                return
        raise defect()

    async def _stream(
        self, answer: Answer, events: AsyncGenerator[Event, None], _: Scope, __: Receive, send: Send
    ) -> None:
        # Nothing is sent before the first event: a refusal still gets its HTTP status.
        first = await anext(events, None) or Failed.of(answer.request.id, defect())
        if isinstance(first, Failed):
            raise self._error(first)
        headers = [
            (b"content-type", self._dialect.stream_type),
            (b"x-accel-buffering", b"no"),  # nginx would collect the stream
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        voice = Voice(partial(_send_chunk, send), answer.silence, self._patience.comment_s)
        async with voice.never_silent():
            await voice.say(answer.opening() + self._chunk(answer, first))
            last = isinstance(first, Finished)
            while not last:
                event = await anext(events, None) or Failed.of(answer.request.id, defect())
                last = isinstance(event, Finished | Failed)
                await voice.say(self._chunk(answer, event))
        await send({"type": "http.response.body"})

    def _chunk(self, answer: Answer, event: Event) -> bytes:
        """What ``event`` adds to the stream; acceptance adds nothing."""
        if isinstance(event, Delta):
            return answer.delta(event)
        if isinstance(event, Finished):
            return answer.closing(event)
        return answer.failure(self._error(event)) if isinstance(event, Failed) else b""

    def _error(self, event: Failed) -> EdgeError:
        return renamed(event.error(), self._dialect.names)


def asking(scope: Scope, service: Service) -> Asking:
    """What is known of the request of ``scope`` before its body is read."""
    return Asking(
        model=service.info().model,
        limits=service.limits,
        request_id=scope["state"]["request_id"],
        client=client_name(scope),
    )


def client_name(scope: Scope) -> str:
    """Who asks, for fairness between clients: the owner of the key, without keys the peer's address."""
    if owner := scope["state"].get("client"):
        return str(owner)
    peer = scope["client"][0] if scope.get("client") else "unknown"
    return "http:" + re.sub(r"[^A-Za-z0-9._:-]", "-", peer)[:48]


async def read_body(receive: Receive, limit_s: float) -> bytes:
    """The whole body. Raises SlowBody, and ClientGone when the client hangs up."""
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(limit_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(message.get("body", b""))
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        raise SlowBody(f"the body did not arrive within {limit_s:g} s") from None


def check_media_type(scope: Scope) -> None:
    """Raises WrongMediaType for anything but plain JSON."""
    kind = ", ".join(header_values(scope, b"content-type"))
    if not _JSON.fullmatch(kind.strip()):
        raise WrongMediaType(f"the Content-Type is {kind[:80]!r}", hint="send application/json")
    coding = ", ".join(header_values(scope, b"content-encoding")).strip().lower()
    if coding not in {"", "identity"}:
        raise WrongMediaType(f"the Content-Encoding is {coding[:80]!r}", hint="send the body as it is")


async def _send_chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
