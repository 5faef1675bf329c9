"""Connections that misbehave: bad bytes, hang-ups, stalls, floods; none of them keeps a slot or a task."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager

import httpx
import pytest

from edged.transports.http.connection import Patience
from tests.kit.http_serving import (
    DEADLINE_S,
    breaks_after,
    chat,
    close,
    floods,
    says,
    serving,
    stalls,
    until,
)

HURRY = Patience(
    header_s=0.2, body_s=0.2, keep_alive_s=0.2, write_s=0.2, comment_s=0.05, linger_s=0.1, farewell_s=0.1
)
TEXT = "/v1/completions"


@asynccontextmanager
async def connected(box):
    reader, writer = await box.connect()
    try:
        yield reader, writer
    finally:
        await close(writer)


async def body_of(reader) -> dict:
    """The JSON of one answer with a content length; its status under "status"."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    body = json.loads(await asyncio.wait_for(reader.readexactly(length), DEADLINE_S))
    return {**body, "status": int(head.split()[1])}


def reset(writer) -> None:
    """Hang up the hard way: the peer gets RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# --- hang-ups ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_while_nothing_is_sent_frees_the_slot(stream, how):
    async def scenario():
        async with serving(stalls()) as box:
            _, writer = await box.connect()
            writer.write(box.post(chat(stream=stream)))
            await until(lambda: box.service.running == 1)
            if how == "close":
                writer.close()
            elif how == "reset":
                reset(writer)
            else:
                writer.write_eof()
            await until(lambda: box.service.running == 0)
            await close(writer)

    asyncio.run(scenario())


def test_a_hang_up_in_mid_stream_frees_the_slot():
    async def scenario():
        async with serving(stalls("Hel", "lo")) as box, connected(box) as (reader, writer):
            writer.write(box.post(chat(stream=True)))
            await asyncio.wait_for(reader.readuntil(b'"lo"'), DEADLINE_S)
            assert box.service.running == 1
            reset(writer)
            await until(lambda: box.service.running == 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_is_noticed_behind_a_pipelined_request_too(stream):
    async def scenario():
        async with serving(stalls()) as box, connected(box) as (_, writer):
            writer.write(box.post(chat(stream=stream)) + box.post(chat(stream=stream)))
            await until(lambda: box.service.running == 1)
            writer.write(box.post(chat()))
            await writer.drain()
            reset(writer)
            await until(lambda: box.service.running == 0)
            assert len(box.service.requests) == 1

    asyncio.run(scenario())


def test_a_hang_up_before_the_body_is_complete_starts_nothing():
    async def scenario():
        async with serving() as box, connected(box) as (_, writer):
            writer.write(box.post(chat())[:-5])
            await until(lambda: len(box.transport._state.tasks) == 1)
            reset(writer)
            await until(lambda: not box.transport._state.tasks)
            assert not box.service.requests

    asyncio.run(scenario())


# --- slow and stalled clients -------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: lo"])
def test_headers_that_do_not_come_end_the_connection(sent):
    async def scenario():
        async with serving(patience=HURRY) as box:
            assert await box.raw(sent) == b""

    asyncio.run(scenario())


def test_headers_that_trickle_in_on_a_reused_connection_end_it():
    async def scenario():
        async with serving(patience=HURRY) as box, connected(box) as (reader, writer):
            line = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{box.port}\r\n"
            writer.write(f"{line}\r\n".encode())
            assert (await body_of(reader))["alive"] is True
            ended = asyncio.ensure_future(_read_all(reader))
            async with asyncio.timeout(DEADLINE_S):
                while not ended.done():  # each byte would restart an idle timer
                    writer.write(line[:1].encode())
                    line = line[1:] or "x: y\r\n"
                    await asyncio.wait({ended}, timeout=0.02)
            assert ended.result() == b""

    asyncio.run(scenario())


def test_an_idle_connection_is_closed():
    async def scenario():
        async with serving(patience=HURRY) as box, box.client() as client:
            await client.get("/healthz")
            await until(lambda: not box.transport._state.connections)
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(scenario())


def test_a_body_that_does_not_come_is_a_408():
    async def scenario():
        async with serving(patience=HURRY) as box:
            answer = await box.raw(box.post(chat())[:-5])
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"request_timeout"' in answer
            assert not box.service.requests

    asyncio.run(scenario())


def test_a_reader_that_stalls_is_dropped_and_the_others_are_served():
    async def scenario():
        async with serving(floods("x" * 4096), patience=HURRY) as box:
            _, writer = await box.connect()
            writer.write(box.post(chat(stream=True)))
            await until(lambda: box.service.running == 1)
            box.service.play = says("quick")
            async with box.client() as client:
                response = await client.post("/v1/chat/completions", json=chat())
                assert response.json()["choices"][0]["message"]["content"] == "quick"
            await until(lambda: box.service.running == 0)
            await close(writer)

    asyncio.run(scenario())


def test_a_slow_reader_gets_everything():
    text = "0123456789" * 2000

    async def scenario():
        async with serving(says(*[text] * 40), patience=HURRY) as box, connected(box) as (reader, writer):
            writer.write(box.post(chat(stream=True), headers="Connection: close\r\n"))
            received = b""
            async with asyncio.timeout(DEADLINE_S):
                while portion := await reader.read(16384):
                    received += portion
                    await asyncio.sleep(0.002)
            assert received.count(text.encode()) == 40
            assert b"data: [DONE]\n\n" in received

    asyncio.run(scenario())


def test_a_stalled_reader_of_a_whole_answer_is_dropped():
    async def scenario():
        async with serving(says("x" * 8_000_000), patience=HURRY) as box, connected(box) as (_, writer):
            writer.write(box.post(chat()))
            await until(lambda: len(box.service.requests) == 1)
            await until(lambda: not box.transport._state.connections)
            await until(lambda: not box.transport._state.tasks)

    asyncio.run(scenario())


def test_answers_of_any_size_to_stalled_readers_are_dropped_also_when_the_server_closes():
    async def stalled(box, size):
        box.service.play = says("x" * size)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)  # noqa: FBT003 - takes no keyword
        await asyncio.get_running_loop().sock_connect(sock, (box.host, box.port))
        sock.send(box.post(chat(), headers="Connection: close\r\n"))
        return sock

    async def scenario():
        async with serving(patience=HURRY) as box:
            socks = []
            for count, size in enumerate(range(1000, 600_000, 20_000), 1):
                socks.append(await stalled(box, size))
                await until(lambda count=count: len(box.service.requests) == count)
            await until(lambda: not box.transport._state.connections)
            for sock in socks:
                sock.close()

    asyncio.run(scenario())


def test_each_piece_is_sent_at_once():
    async def scenario():
        async with serving(stalls("x")) as box, connected(box) as (_, writer):
            writer.write(box.post(chat(stream=True)))
            await until(lambda: box.service.running == 1)
            (connection,) = box.transport._state.connections
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(scenario())


def test_silence_is_filled_with_comments():
    async def scenario():
        async with serving(stalls("Hi"), patience=HURRY) as box, connected(box) as (reader, writer):
            writer.write(box.post(chat(stream=True)))
            for _ in range(3):
                await asyncio.wait_for(reader.readuntil(b": waiting\n\n"), DEADLINE_S)

    asyncio.run(scenario())


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
            assert await asyncio.wait_for(_read_all(reader), DEADLINE_S) == b""
            await until(lambda: box.service.running == 0)
            assert len(box.service.requests) == 1

    asyncio.run(scenario())


async def _read_all(reader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_a_client_of_http_1_0_gets_its_stream_until_the_connection_closes():
    async def scenario():
        async with serving(says("a", "b")) as box:
            answer = await box.raw(box.post(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"data: [DONE]\n\n")

    asyncio.run(scenario())


# --- many clients, and the end ------------------------------------------------------------


def test_above_the_connection_limit_requests_are_refused_but_probes_are_not():
    async def scenario():
        async with serving(max_connections=2) as box:
            held = [await box.connect() for _ in range(2)]
            await until(lambda: len(box.transport._state.connections) == 2)
            async with box.client() as client:
                refused = await client.get("/status")
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
                assert refused.headers["retry-after"] == "5"
                assert (await client.get("/healthz")).status_code == 200
                assert (await client.get("/readyz")).status_code == 200
            for _, writer in held:
                await close(writer)
            await until(lambda: not box.transport._state.connections)
            async with box.client() as client:
                assert (await client.get("/status")).status_code == 200

    asyncio.run(scenario())


def test_far_above_the_connection_limit_connections_are_cut_at_once():
    async def scenario():
        async with serving(max_connections=2) as box:
            held = [await box.connect() for _ in range(4)]
            await until(lambda: len(box.transport._state.connections) == 4)
            reader, writer = await box.connect()
            assert await asyncio.wait_for(_read_all(reader), DEADLINE_S) == b""
            assert len(box.transport._state.connections) == 4
            for _, other in [*held, (reader, writer)]:
                await close(other)

    asyncio.run(scenario())


def test_a_stop_is_quick_whatever_the_clients_do():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with serving(stalls("x")) as box:
            clients = [await box.connect() for _ in range(6)]
            writers = [writer for _, writer in clients]
            writers[0].write(box.post(chat()))  # waits for its answer
            writers[1].write(box.post(chat(stream=True)))  # reads a stream
            writers[2].write(box.post(chat())[:-3])  # sends half a body
            writers[3].write(b"GET /")  # sends half a header
            writers[4].write(box.post(chat()) + box.post(chat()))  # pipelines
            await until(lambda: box.service.running == 3 and len(box.transport._state.tasks) == 4)
            began = loop.time()
            await box.transport.stop()
            assert loop.time() - began < 2.5
            assert not box.transport._state.connections
            assert not box.transport._state.tasks
            assert box.service.running == 0
            await box.transport.stop()
            for writer in writers:
                await close(writer)

    asyncio.run(scenario())


def test_a_service_that_does_not_let_go_cannot_hold_up_the_stop():
    async def clinging(_):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()
        yield

    async def scenario():
        async with serving(clinging, patience=Patience(farewell_s=0.1, stop_s=0.1)) as box:
            _, writer = await box.connect()
            writer.write(box.post(chat()))
            await until(lambda: box.service.running == 1)
            await asyncio.wait_for(box.transport.stop(), DEADLINE_S)
            await until(lambda: box.service.running == 0)
            await close(writer)

    asyncio.run(scenario())


def test_a_drain_lets_answers_end_and_takes_no_new_ones():
    async def scenario():
        go_on = asyncio.Event()

        async def waits(request):
            async for event in says("Hello", " world")(request):
                yield event
                if event.__class__.__name__ == "Delta":
                    await go_on.wait()

        async with serving(waits) as box, connected(box) as (reader, writer), connected(box) as (idle, _):
            writer.write(box.post(chat(stream=True)))
            await asyncio.wait_for(reader.readuntil(b'"Hello"'), DEADLINE_S)
            draining = asyncio.create_task(box.transport.drain())
            assert await asyncio.wait_for(idle.read(), DEADLINE_S) == b""  # idle connections are closed
            with pytest.raises(OSError, match="onnect"):
                await box.connect()
            assert not draining.done()
            go_on.set()
            assert b'" world"' in await asyncio.wait_for(reader.readuntil(b"data: [DONE]\n\n"), DEADLINE_S)
            await asyncio.wait_for(draining, DEADLINE_S)

    asyncio.run(scenario())


def test_a_drain_does_not_wait_for_ever():
    async def scenario():
        async with serving(stalls()) as box, connected(box) as (_, writer):
            writer.write(box.post(chat(stream=True)))
            await until(lambda: box.service.running == 1)
            await asyncio.wait_for(box.transport.drain(within_s=0.05), DEADLINE_S)
            assert box.service.running == 1

    asyncio.run(scenario())


def test_what_fails_at_the_stop_still_reaches_its_client():
    from edged.api.errors import Draining

    async def scenario():
        go_on = asyncio.Event()

        async def fails_late(request):
            async for event in breaks_after("x", Draining("the daemon is stopping"))(request):
                if event.__class__.__name__ == "Failed":
                    await go_on.wait()
                yield event

        async with serving(fails_late) as box, connected(box) as (reader, writer):
            writer.write(box.post(chat(stream=True)))
            await asyncio.wait_for(reader.readuntil(b'"x"'), DEADLINE_S)
            go_on.set()
            await box.transport.stop()
            rest = await asyncio.wait_for(reader.read(), DEADLINE_S)
            assert b'"draining"' in rest
            assert b"data: [DONE]\n\n" in rest

    asyncio.run(scenario())


def test_the_port_is_free_again_after_the_stop():
    async def scenario():
        async with serving() as box:
            async with box.client() as client:
                await client.get("/healthz")
            await box.transport.stop()
            async with serving() as other:
                assert other.port
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((box.host, box.port))

    asyncio.run(scenario())


def test_hundreds_of_requests_at_once_leave_nothing_behind():
    async def scenario():
        limits = httpx.Limits(max_connections=40)
        async with serving(says("a", "b")) as box, box.client(limits=limits) as client:
            answers = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=chat(stream=n % 2 == 0)) for n in range(150))
            )
            assert {answer.status_code for answer in answers} == {200}
            await until(lambda: not box.transport._state.tasks)

    asyncio.run(scenario())
