"""Clients that are slow or stand still: each costs its own connection, and none a slot or a task."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.kit.http_connections import HURRY, body_of, connected, read_all
from tests.kit.http_serving import (
    DEADLINE_S,
    chat,
    close,
    floods,
    says,
    serving,
    stalls,
    until,
)

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
            ended = asyncio.ensure_future(read_all(reader))
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
