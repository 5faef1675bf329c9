"""A real HTTP server on a free port in front of a scripted service, and raw clients for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from edged.api.config import Http
from edged.api.errors import EdgeError
from edged.api.events import Accepted, Delta, Event, Failed, Finished, Timings, Usage
from edged.api.requests import Limits, Request, check
from edged.api.status import (
    Condition,
    Counters,
    EngineState,
    Info,
    MemoryStatus,
    ModelInfo,
    ServiceState,
    Status,
)
from edged.api.status import Limits as StatusLimits
from edged.transports.http.connection import Patience
from edged.transports.http.page_files import FOLDER, INDEX
from edged.transports.http.routes import routes
from edged.transports.http.server import HttpTransport

MODEL = ModelInfo(name="Qwen3.5-2B", quant="Q4_K_M", file_bytes=1, context_tokens=512, slots=2)
LIMITS = Limits(max_prompt_bytes=4096, max_tokens=64, default_max_tokens=16, default_ttl_s=60.0)
DEADLINE_S = 10.0

Play = Callable[[Request], AsyncGenerator[Event, None]]


def says(*texts: str) -> Play:
    """An answer of ``texts``, one delta each."""

    async def play(request: Request) -> AsyncGenerator[Event, None]:
        yield Accepted(id=request.id, position=0)
        for seq, text in enumerate(texts):
            yield Delta(id=request.id, seq=seq, text=text)
        yield Finished(
            id=request.id,
            text="".join(texts),
            finish="stop",
            usage=Usage(prompt_tokens=7, completion_tokens=len(texts), cached_tokens=3),
            timings=Timings(queue_ms=1.0, first_ms=2.0, total_ms=3.0),
        )

    return play


def refuses(error: EdgeError) -> Play:
    async def play(request: Request) -> AsyncGenerator[Event, None]:
        yield Failed.of(request.id, error)

    return play


def breaks_after(text: str, error: EdgeError) -> Play:
    async def play(request: Request) -> AsyncGenerator[Event, None]:
        yield Accepted(id=request.id, position=0)
        yield Delta(id=request.id, seq=0, text=text)
        yield Failed.of(request.id, error)

    return play


def stalls(*texts: str) -> Play:
    """``texts``, then silence for ever: a prefill that takes its time."""

    async def play(request: Request) -> AsyncGenerator[Event, None]:
        yield Accepted(id=request.id, position=0)
        for seq, text in enumerate(texts):
            yield Delta(id=request.id, seq=seq, text=text)
        await asyncio.Event().wait()

    return play


def floods(text: str) -> Play:
    """``text`` again and again without end."""

    async def play(request: Request) -> AsyncGenerator[Event, None]:
        yield Accepted(id=request.id, position=0)
        seq = 0
        while True:
            yield Delta(id=request.id, seq=seq, text=text)
            seq += 1
            await asyncio.sleep(0)

    return play


class ScriptedService:
    """The Service port with a script for an engine."""

    def __init__(self, play: Play | None = None, *, ready: bool = True) -> None:
        self.play = play or says("Hello", " world")
        self.ready = ready
        self.requests: list[Request] = []
        self.running = 0

    @property
    def limits(self) -> Limits:
        return LIMITS

    @property
    def capacity(self) -> int:
        return 8

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self.running += 1
        try:
            check(request, LIMITS)
            async with aclosing(self.play(request)) as events:
                async for event in events:
                    yield event
        except EdgeError as error:
            yield Failed.of(request.id, error)
        finally:
            self.running -= 1

    def cancel(self, client: str, request_id: str) -> bool:
        return False

    def status(self) -> Status:
        conditions = (
            () if self.ready else (Condition(code="engine_broken", severity="error", message="gone"),)
        )
        return Status(
            node="box",
            version="1",
            pid=1,
            worker_pid=2,
            state=ServiceState.READY if self.ready else ServiceState.DEGRADED,
            engine=EngineState.READY if self.ready else EngineState.BROKEN,
            uptime_s=1.0,
            model=MODEL,
            queue=0,
            running=self.running,
            decode_tps=None,
            first_token_ms=None,
            memory=MemoryStatus(budget_bytes=0),
            counters=Counters(),
            conditions=conditions,
        )

    def info(self) -> Info:
        limits = StatusLimits(max_prompt_tokens=1, max_tokens=1, max_prompt_bytes=1, max_reply_bytes=1)
        return Info(node="box", version="1", model=MODEL, board="", limits=limits, features=())


class Box:
    """A running transport and its clients."""

    def __init__(self, transport: HttpTransport, service: Any) -> None:
        self.transport = transport
        self.service = service
        self.host, self.port = transport.address
        self.url = f"http://{self.host}:{self.port}"

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_S, trust_env=False, **options)

    async def raw(self, data: bytes) -> bytes:
        """What the server sends until it closes, in answer to ``data``."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            async with asyncio.timeout(DEADLINE_S):
                return await reader.read()
        except ConnectionResetError:
            return b""  # the server closed without reading everything
        finally:
            await close(writer)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    def post(self, body: Any, *, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
        """The bytes of a POST request; ``headers`` are whole lines."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n{headers}\r\n"
        ).encode() + payload


def every_route() -> list[tuple[str, str]]:
    """(method, path) of every route of the application, of the page's files, and one that is not there."""
    described = routes(ScriptedService(), Patience(), keyed=False)
    told = [(route.about.method, route.path_format.replace("{name}", "default")) for route in described]
    page = [("GET", f"/page/{path.name}") for path in sorted(FOLDER.iterdir()) if path.name != INDEX]
    return [*told, *page, ("GET", "/no/such/route")]


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], **fields}


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await writer.wait_closed()
    except OSError:
        pass  # the server cut the connection first


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; TimeoutError after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is inside the server
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    play: Play | None = None, *, service: Any = None, patience: Patience | None = None, **config: Any
) -> AsyncIterator[Box]:
    """A transport on a free port of 127.0.0.1; afterwards it may leave no task and no slot taken."""
    own = service is None
    service = service or ScriptedService(play)
    before = asyncio.all_tasks()
    transport = HttpTransport(Http(host="127.0.0.1", port=0, **config), service, patience)
    await transport.start()
    try:
        yield Box(transport, service)
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await transport.stop()
    # A real engine starts tasks of its own when its worker is replaced.
    left = asyncio.all_tasks() - before if own else transport._state.tasks
    assert not left, f"tasks outlived the transport: {left}"
    assert not getattr(service, "running", 0), "a slot is still taken"
