"""A client that notes when each piece of an answer arrived; many of them at once in threads."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from tests.bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.conditions import Server

LIMIT_S = 1800.0


class Stream(Struct, kw_only=True):
    """One answer; times by time.monotonic(). ``evaluated`` is None when the server does not tell."""

    sent_s: float = 0.0
    ended_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list)  # of pieces with text
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    cut: bool = False  # by us

    @property
    def first_s(self) -> float:
        """From sending to the first piece."""
        return self.arrivals_s[0] - self.sent_s

    @property
    def decode_tps(self) -> float:
        """Tokens per second from the first piece to the last."""
        return (self.tokens - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])

    @property
    def tokens(self) -> int:
        """Of the answer; of a server that does not count, or of a cut answer, the pieces."""
        return self.completion_tokens or len(self.arrivals_s)


def chat(server: Server, fields: dict[str, Any], on_piece: Callable[[Stream], bool] | None = None) -> Stream:
    """One streamed chat. ``on_piece`` returning True hangs up. Raises BenchError."""
    body = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **fields}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    try:
        stream = Stream(sent_s=time.monotonic())
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(server.body(body)),
            {"content-type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise BenchError(f"{server.name} answered {response.status}: {response.read()[:500]!r}")
        while line := response.readline():
            now = time.monotonic()
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                break
            if _take(stream, server, json.loads(data), now) and on_piece is not None and on_piece(stream):
                stream.cut = True
                break
        stream.ended_s = time.monotonic()
    finally:
        connection.close()
    if not stream.arrivals_s and not stream.cut:
        raise BenchError(f"{server.name} answered without text; its log:\n{server.log()[-1000:]}")
    return stream


def _take(stream: Stream, server: Server, chunk: dict[str, Any], now: float) -> bool:
    """Note one chunk; whether it brought text."""
    if "error" in chunk:
        raise BenchError(f"{server.name} failed: {chunk['error']}")
    usage = chunk.get("usage")
    if usage:
        stream.prompt_tokens = usage["prompt_tokens"]
        stream.completion_tokens = usage["completion_tokens"]
        stream.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    choices = chunk.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    piece = delta.get("content") or delta.get("reasoning_content") or ""
    if piece:
        stream.arrivals_s.append(now)
        stream.text += piece
    return bool(piece)


def abandon(server: Server, fields: dict[str, Any], after_s: float) -> None:
    """Ask for a streamed chat and hang up ``after_s`` seconds later, whatever has come by then."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    try:
        body = json.dumps(server.body({"stream": True, **fields}))
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        time.sleep(after_s)
    finally:
        connection.close()


def post(server: Server, path: str, fields: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The JSON answer to one POST and the seconds it took. Raises BenchError."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    try:
        before = time.monotonic()
        connection.request("POST", path, json.dumps(fields), {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        took_s = time.monotonic() - before
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{server.name} answered {response.status} to {path}: {data[:500]!r}")
    return json.loads(data), took_s


def answers(port: int, path: str) -> bool:
    """Whether somebody answers a GET with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def at_once(tasks: list[Callable[[], Stream]]) -> list[Stream]:
    """Run ``tasks`` in a thread each, begun together; raises what the first failed one raised."""
    gate = threading.Barrier(len(tasks))
    results: list[Stream | BaseException] = [BenchError("never ran")] * len(tasks)

    def run(index: int) -> None:
        try:
            gate.wait()
            results[index] = tasks[index]()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Stream)]
