"""Clients that hang up, clients in crowds, and the end of the server: no slot and no task is kept."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from edged.transports.http.connection import Patience
from tests.kit.http_connections import connected, read_all, reset
from tests.kit.http_serving import (
    DEADLINE_S,
    breaks_after,
    chat,
    close,
    says,
    serving,
    stalls,
    until,
)

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
            assert await asyncio.wait_for(read_all(reader), DEADLINE_S) == b""
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
