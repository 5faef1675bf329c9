"""Stands in for the service at its port: echoes, holds answers back, refuses, on command."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edged.api.errors import Busy, Cancelled, EdgeError
from edged.api.events import Accepted, Delta, Event, Failed, Finished, Timings, Usage
from edged.api.requests import Limits, Request, check
from edged.api.status import Counters, EngineState, Info, MemoryStatus, ModelInfo, ServiceState, Status
from edged.api.status import Limits as StatusLimits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MODEL = ModelInfo(name="fake", quant="Q0", file_bytes=1, context_tokens=512, slots=2)


class ScriptedService:
    """Answers ``echo: <last message>``; ``gate`` cleared holds every answer back after its first word."""

    def __init__(self, *, capacity: int = 8, max_reply_bytes: int = 131072) -> None:
        self.limits = Limits(max_prompt_bytes=4096, max_tokens=512, default_max_tokens=64, default_ttl_s=60.0)
        self.ready = True
        self.capacity = capacity
        self.max_reply_bytes = max_reply_bytes
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer = ""
        self.seen: list[Request] = []
        self.running: dict[tuple[str, str], asyncio.Event] = {}
        self.refusal: EdgeError | None = None
        self.defect: Exception | None = None

    @property
    def room(self) -> int:
        return max(0, MODEL.slots - len(self.running)) if self.ready else 0

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        if self.defect:
            raise self.defect
        try:
            check(request, self.limits)
            if self.refusal:
                raise self.refusal
            if len(self.running) >= self.capacity:
                raise Busy("the queue is full", retry_after_s=4.0)
        except EdgeError as error:
            yield Failed.of(request.id, error)
            return
        cancelled = self.running[request.client, request.id] = asyncio.Event()
        try:
            yield Accepted(id=request.id, position=len(self.running) - 1, eta_s=1.5)
            text = (
                self.answer or f"echo: {request.messages[-1].content if request.messages else request.prompt}"
            )
            yield Delta(id=request.id, seq=0, text=text[:4])
            gate = asyncio.ensure_future(self.gate.wait())
            stop = asyncio.ensure_future(cancelled.wait())
            await asyncio.wait({gate, stop}, return_when=asyncio.FIRST_COMPLETED)
            gate.cancel()
            stop.cancel()
            if cancelled.is_set():
                yield Failed.of(request.id, Cancelled("the client cancelled it"))
                return
            yield Delta(id=request.id, seq=1, text=text[4:])
            yield Finished(
                id=request.id, text=text, finish="stop",
                usage=Usage(prompt_tokens=3, completion_tokens=7),
                timings=Timings(queue_ms=0.4, first_ms=12.6, total_ms=20.0),
            )  # fmt: skip
        finally:
            del self.running[request.client, request.id]

    def cancel(self, client: str, request_id: str) -> bool:
        found = self.running.get((client, request_id))
        if found:
            found.set()
        return found is not None

    def status(self) -> Status:
        return Status(
            node="box", version="0", pid=1, worker_pid=None,
            state=ServiceState.READY if self.ready else ServiceState.LOADING, engine=EngineState.READY,
            uptime_s=1.0, model=MODEL, queue=0, running=len(self.running), decode_tps=4.56,
            first_token_ms=None, memory=MemoryStatus(budget_bytes=100), counters=Counters(),
            capacity=self.capacity,
        )  # fmt: skip

    def info(self) -> Info:
        limits = StatusLimits(
            max_prompt_tokens=448, max_tokens=512, max_prompt_bytes=4096, max_reply_bytes=self.max_reply_bytes
        )
        return Info(node="box", version="0", model=MODEL, board="bench", limits=limits, features=("chat",))
