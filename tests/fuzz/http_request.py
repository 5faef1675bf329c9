"""A request as the HTTP application gets it: one whole answer, JSON where it says so, and never a defect.

The first line is method and path, the rest the body.

    POST /v1/chat/completions
    {"messages": [{"role": "user", "content": "hi"}]}
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from edged.api.config import Http
from edged.api.events import Accepted, Delta, Finished, Score, Timings, TokenLogprob, Usage
from edged.transports.http.at_once import ClassifyBody, EmbeddingsBody
from edged.transports.http.connection import Patience
from edged.transports.http.errors import STATUS
from edged.transports.http.ollama import OllamaChatBody, OllamaGenerateBody, Options
from edged.transports.http.openai import ChatBody, TextBody
from edged.transports.http.responses import ResponsesBody
from edged.transports.http.responses_items import Item
from edged.transports.http.routes import build_app
from tests.fuzz.log_lines import one_line_each
from tests.kit.http_serving import ScriptedService, every_route

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Message, Scope

    from edged.api.events import Event
    from edged.api.requests import Request

BODIES = (ChatBody, TextBody, ResponsesBody, ClassifyBody, EmbeddingsBody, OllamaChatBody, OllamaGenerateBody,
          Options, Item)  # fmt: skip
WORDS = (*{name for body in BODIES for name in body.__struct_fields__}, *(path for _, path in every_route()),
         "role", "user", "assistant", "type", "text", "function", "json_schema", "image_url")  # fmt: skip
STATUSES = {status for status, _ in STATUS.values() if status < 500} | {200}
LONGEST_MESSAGE_CHARS = 400
TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
LIMIT_S = 5.0


async def play(request: Request) -> AsyncGenerator[Event, None]:
    """An answer that has something of everything that was asked for."""
    yield Accepted(id=request.id, position=0)
    yield Delta(id=request.id, seq=0, text="Yes")
    yield Finished(
        id=request.id,
        text="Yes",
        finish="stop",
        usage=Usage(prompt_tokens=7, completion_tokens=1),
        timings=Timings(queue_ms=1.0, first_ms=2.0, total_ms=3.0),
        scores=tuple(Score(choice=one, probability=0.5, logprob=-0.7, tokens=1) for one in request.choices),
        embeddings=tuple((0.6, 0.8) for _ in request.inputs),
        logprobs=None if request.logprobs is None else (TokenLogprob(token=b"\xff", logprob=-0.1),),
    )


LOOP = asyncio.new_event_loop()
APP = build_app(Http(), ScriptedService(play), None, Patience())


def split(data: bytes) -> int:
    """Where the body begins."""
    return data.find(b"\n") + 1 or len(data)


def check(data: bytes) -> bool:
    """Whether the request was answered with 200."""
    body = data[split(data) :]
    method, _, target = data[: len(data) - len(body)].removesuffix(b"\n").partition(b" ")
    with one_line_each():
        said = LOOP.run_until_complete(_answer(method, target, body))
    return _judge(said)


async def _answer(method: bytes, target: bytes, body: bytes) -> list[Message]:
    raw_path, _, query = target.partition(b"?")
    scope: Scope = {
        "type": "http",
        "method": method.decode() if TOKEN.fullmatch(method) else "POST",  # h11 lets nothing else through
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "headers": [(b"host", b"localhost:8080"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8080),
        "scheme": "http",
        "http_version": "1.1",
        "state": {},
    }
    half = len(body) // 2
    parts = iter(((body[:half], True), (body[half:], False)))
    said: list[Message] = []
    gone = asyncio.Event()

    async def receive() -> Message:
        for part, more in parts:
            return {"type": "http.request", "body": part, "more_body": more}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.append(message)

    async with asyncio.timeout(LIMIT_S):
        await APP(scope, receive, send)
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"
    return said


def _judge(said: list[Message]) -> bool:
    start, *rest = said
    assert start["type"] == "http.response.start"
    assert rest, "an answer has an end"
    assert not any(one.get("more_body") for one in rest[-1:])
    assert all(one["type"] == "http.response.body" for one in rest)
    assert start["status"] in STATUSES, start
    for name, value in start["headers"]:
        assert value.decode("latin-1").isprintable(), (name, value)
    kind = dict(start["headers"]).get(b"content-type", b"").partition(b";")[0]
    body = b"".join(one.get("body", b"") for one in rest)
    told = [json.loads(text) for text in READ[kind](body)] if kind in READ else []
    if start["status"] >= 400:
        (refusal,) = told
        error = refusal["error"]
        message = error if isinstance(error, str) else error["message"]
        assert 0 < len(message) <= LONGEST_MESSAGE_CHARS, message
        assert message.isprintable(), message
    return bool(start["status"] == 200)


def _events(body: bytes) -> list[bytes]:
    """The data of server-sent events."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [line for line in lines if line != b"[DONE]"]


READ = {
    b"application/json": lambda body: [body],
    b"text/event-stream": _events,
    b"application/x-ndjson": lambda body: body.splitlines(),
}
