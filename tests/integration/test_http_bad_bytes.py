"""Bodies that are too large or broken, and bytes that are no HTTP: one clear answer, and no harm done."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.kit.http_connections import HURRY, body_of, connected, read_all
from tests.kit.http_serving import (
    DEADLINE_S,
    chat,
    says,
    serving,
    stalls,
    until,
)

TEXT = "/v1/completions"


# --- bodies -------------------------------------------------------------------------------


def test_an_announced_body_above_the_limit_is_refused_unread():
    async def scenario():
        async with serving(max_body_bytes=1024) as box, connected(box) as (reader, writer):
            head = box.post(b"").replace(b"Content-Length: 0", b"Content-Length: 1073741824")
            writer.write(head)
            answer = await body_of(reader)
            assert (answer["status"], answer["error"]["code"]) == (413, "too_large")
            assert "1024 bytes" in answer["error"]["message"]

    asyncio.run(scenario())


def test_a_chunked_body_is_refused_as_soon_as_it_exceeds_the_limit():
    async def scenario():
        async with serving(max_body_bytes=1024) as box, connected(box) as (reader, writer):
            head = box.post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            writer.write(head + b"400\r\n" + b" " * 1024 + b"\r\n")
            await writer.drain()
            writer.write(b"1\r\n \r\n")
            answer = await body_of(reader)
            assert (answer["status"], answer["error"]["code"]) == (413, "too_large")
            assert not box.service.requests

    asyncio.run(scenario())


def test_a_body_of_exactly_the_limit_is_read_chunked_or_not():
    async def scenario():
        async with serving(max_body_bytes=1024) as box, connected(box) as (reader, writer):
            body = json.dumps(chat()).encode().ljust(1024)
            writer.write(box.post(body))
            assert (await body_of(reader))["status"] == 200
            head = box.post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            writer.write(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
            assert (await body_of(reader))["status"] == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(("path", "headers", "status"), [
    ("/nope", "", 404),
    ("/healthz", "", 405),
    ("/v1/completions", "Origin: http://evil\r\n", 403),
])  # fmt: skip
def test_a_client_in_the_middle_of_an_unwanted_upload_still_hears_why(path, headers, status):
    async def scenario():
        async with serving() as box, connected(box) as (reader, writer):
            head, _, _ = box.post(b"", path=path).partition(b"Content-Length: 0")
            writer.write(head + b"Content-Length: 900000\r\n" + headers.encode() + b"\r\n" + b"x" * 300_000)
            await writer.drain()
            writer.write(b"x" * 600_000)
            await writer.drain()
            assert (await body_of(reader))["status"] == status
            assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""

    asyncio.run(scenario())


def test_an_endless_upload_after_a_refusal_is_cut():
    async def upload(writer):
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def scenario():
        async with serving(patience=HURRY) as box, connected(box) as (_, writer):
            head = box.post(b"", path="/nope").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
            writer.write(head)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(upload(writer), DEADLINE_S)

    asyncio.run(scenario())


def test_a_client_that_asks_first_is_told_to_go_on_or_not():
    async def scenario():
        async with serving(max_body_bytes=1024) as box, connected(box) as (reader, writer):
            head, _, body = box.post(chat(), headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(body)
            assert (await body_of(reader))["status"] == 200
            writer.write(head.replace(b"Content-Length: ", b"Content-Length: 99999") + b"\r\n\r\n")
            assert (await body_of(reader))["status"] == 413

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b'{"prompt": "\xff"}', b'{"prompt": 1}', b'{"prompt": NaN}', b"\x00" * 100,
    b"[" * 50_000, b'{"prompt": ' + b"[" * 50_000, b'{"user": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"prompt": "x", "prompt": 7}', b'{"prompt": "x", "max_tokens": -1}', b'{"prompt": "x", "seed": -1}',
    b'{"prompt": ""}', b'{"prompt": "x", "zzz": 1}', b'{"prompt": "x", "seed": 1e400}',
])  # fmt: skip
def test_every_bad_body_is_one_clear_400(body):
    async def scenario():
        async with serving() as box, connected(box) as (reader, writer):
            writer.write(box.post(body, path=TEXT))
            answer = await body_of(reader)
            assert answer["status"] == 400
            assert answer["error"]["code"] == "bad_request"
            assert 5 < len(answer["error"]["message"]) < 200
            writer.write(box.post({"prompt": "x"}, path=TEXT))  # the connection is still good
            assert (await body_of(reader))["status"] == 200

    asyncio.run(scenario())


# --- bytes --------------------------------------------------------------------------------

HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # a TLS hello
    b"GET\r\n\r\n",
    b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b" folded\x00: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1e3\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 300_000,
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    bytes(range(256)) * 40,
])  # fmt: skip
def test_bytes_that_are_no_http_get_an_error_and_harm_nobody(data, caplog):
    async def scenario():
        async with serving(patience=HURRY) as box, box.client() as client:
            answer = await box.raw(data)
            assert answer.split(b" ")[1:2] in ([], [b"400"], [b"404"], [b"421"], [b"431"], [b"501"]), answer[
                :200
            ]
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n", b"f" * 40 + b"\r\n"])
def test_a_broken_chunk_ends_the_request_with_a_400(chunk, caplog):
    async def scenario():
        async with serving() as box:
            head = box.post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            answer = await box.raw(head + chunk)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
            assert not box.service.requests

    asyncio.run(scenario())
    assert not caplog.records


def test_an_upgrade_is_not_taken_up():
    async def scenario():
        async with serving() as box:
            answer = await box.raw(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\n"
                b"Upgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
            )
            assert answer.startswith(b"HTTP/1.1 200 ")

    asyncio.run(scenario())


def test_pipelined_requests_are_answered_in_order():
    async def scenario():
        async with serving() as box, connected(box) as (reader, writer):
            writer.write(b"".join(box.post(chat(id=f"job-{number}")) for number in range(20)))
            ids = [(await body_of(reader))["id"] for _ in range(20)]
            assert ids == [f"job-{number}" for number in range(20)]

    asyncio.run(scenario())


def test_pipelining_without_end_is_cut():
    async def scenario():
        async with serving(stalls()) as box, connected(box) as (reader, writer):
            writer.write(box.post(chat()) + box.post(chat()) * 2000)
            assert await asyncio.wait_for(read_all(reader), DEADLINE_S) == b""
            await until(lambda: box.service.running == 0)
            assert len(box.service.requests) == 1

    asyncio.run(scenario())


def test_a_client_of_http_1_0_gets_its_stream_until_the_connection_closes():
    async def scenario():
        async with serving(says("a", "b")) as box:
            answer = await box.raw(box.post(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"data: [DONE]\n\n")

    asyncio.run(scenario())
