"""HTTP in front of the real service with a real worker process and the fake engine."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import Any

from edged.api.status import EngineState
from tests.kit.http_serving import chat, close, serving
from tests.kit.service import fake_model, fake_tree, long_text, running_service, until


@asynccontextmanager
async def http_box(tmp_path, *, model: dict[str, Any] | None = None, **script: Any):
    """A transport before a ready service; and the engine, to look at and to kill."""
    tree = fake_tree(fake_model(tmp_path, **script), model=model or {})
    async with running_service(tree, tmp_path) as inner:
        await inner.ready()
        async with serving(service=inner.service) as box:
            yield box, inner.engine


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 60))


SLOW = {"answer": long_text(4000), "step_s": 0.01}
LONG = {"max_tokens": 2000, "temperature": 0}
ONE_SLOT = {"slots": 1, "context": 8192}


def test_a_chat_reaches_the_worker_and_its_answer_the_client(tmp_path):
    async def scenario():
        async with http_box(tmp_path) as (box, _), box.client() as client:
            for stream in (False, True):
                body = chat(stream=stream, temperature=0, model="fake")
                response = await client.post("/v1/chat/completions", json=body)
                assert response.status_code == 200
                assert response.headers["x-request-id"] in response.text
                assert ("data: [DONE]" in response.text) is stream
            whole = (await client.post("/v1/chat/completions", json=chat())).json()
            assert whole["choices"][0]["message"]["content"] == "echo: hi"
            assert whole["usage"]["completion_tokens"] > 0
            status = (await client.get("/status")).json()
            assert status["counters"]["finished"] == 3
            assert (await client.get("/info")).json()["node"] == "box"

    run(scenario())


def test_hang_ups_give_the_only_slot_to_the_next_client(tmp_path):
    async def scenario():
        async with http_box(tmp_path, model=ONE_SLOT, **SLOW) as (box, engine):
            for stream in (False, True):
                _, writer = await box.connect()
                writer.write(box.post(chat(stream=stream, **LONG)))
                await until(lambda: engine.running == 1, "the request to have the slot")
                await close(writer)
                await until(lambda: engine.running == 0, "the slot to be free", limit_s=2.0)
            async with box.client() as client:
                short = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
                assert short.json()["choices"][0]["finish_reason"] == "length"

    run(scenario())


def test_a_killed_worker_ends_the_stream_with_an_error_and_the_next_request_is_served(tmp_path):
    async def scenario():
        async with http_box(tmp_path, model=ONE_SLOT, **SLOW) as (box, engine):
            reader, writer = await box.connect()
            writer.write(box.post(chat(stream=True, **LONG)))
            await reader.readuntil(b'"content":"0')
            os.kill(engine.worker_pid, signal.SIGKILL)
            rest = await asyncio.wait_for(reader.readuntil(b"data: [DONE]\n\n"), 5)
            assert b'"code":"engine_lost"' in rest
            await close(writer)
            await until(lambda: engine.state is EngineState.READY, "the next engine")
            async with box.client() as client:
                again = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
                assert again.status_code == 200

    run(scenario())


def test_a_draining_service_is_a_503_on_readyz_and_for_requests(tmp_path):
    async def scenario():
        async with http_box(tmp_path) as (box, _), box.client() as client:
            box.service.drain()
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["state"]) == (503, "draining")
            refused = await client.post("/v1/chat/completions", json=chat())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert refused.headers["retry-after"] == "10"

    run(scenario())
