"""Every route over a real socket: what it answers, and what stands guard before it."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from edged.api.config import Http
from edged.api.errors import REQUEST_ERRORS, AddressMissing, EngineLost, PortInUse
from edged.transports.http.errors import STATUS
from edged.transports.http.server import HttpTransport
from tests.kit.http_serving import ScriptedService, breaks_after, chat, close, refuses, says, serving


def frames(text: str) -> list:
    """The data of each event of a stream; the end mark as text."""
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in found]


def test_a_chat_is_answered_in_one_piece():
    async def scenario():
        async with serving(says("Hello", " world")) as box, box.client() as client:
            response = await client.post("/v1/chat/completions", json=chat())
            body = response.json()
            assert response.status_code == 200
            assert body["object"] == "chat.completion"
            assert body["model"] == "Qwen3.5-2B-Q4_K_M"
            assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello world"}
            assert body["choices"][0]["finish_reason"] == "stop"
            assert body["usage"] == {
                "prompt_tokens": 7,
                "completion_tokens": 2,
                "total_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 3},
            }
            assert body["id"] == response.headers["x-request-id"] == box.service.requests[0].id
            assert box.service.requests[0].client == "http:127.0.0.1"
            assert response.headers["cache-control"] == "no-store"
            assert "date" in response.headers
            assert "server" not in response.headers
            assert not [name for name in response.headers if name.startswith("access-control")]

    asyncio.run(scenario())


def test_a_plain_completion_is_answered_in_one_piece():
    async def scenario():
        async with serving(says("a", "b")) as box, box.client() as client:
            body = (await client.post("/v1/completions", json={"prompt": "x"})).json()
            assert body["object"] == "text_completion"
            assert body["choices"][0]["text"] == "ab"
            assert box.service.requests[0].prompt == "x"

    asyncio.run(scenario())


def test_a_chat_streams_its_deltas_then_reason_usage_and_end_mark():
    async def scenario():
        async with serving(says("Hello", " world\nline two")) as box, box.client() as client:
            wanted = chat(stream=True, stream_options={"include_usage": True})
            response = await client.post("/v1/chat/completions", json=wanted)
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            *chunks, end = frames(response.text)
            assert end == "[DONE]"
            assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks[1:-2]]
            assert texts == ["Hello", " world\nline two"]
            assert chunks[-2]["choices"][0] == {
                "index": 0,
                "delta": {},
                "logprobs": None,
                "finish_reason": "stop",
            }
            assert chunks[-1]["choices"] == []
            assert chunks[-1]["usage"]["total_tokens"] == 9
            assert all(chunk["usage"] is None for chunk in chunks[:-1])
            assert {chunk["id"] for chunk in chunks} == {response.headers["x-request-id"]}
            assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}

    asyncio.run(scenario())


def test_a_plain_completion_streams_text_without_usage_unless_asked():
    async def scenario():
        async with serving(says("a", "b")) as box, box.client() as client:
            response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
            *chunks, end = frames(response.text)
            assert end == "[DONE]"
            assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "b", ""]
            assert not [chunk for chunk in chunks if "usage" in chunk]

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_a_refusal_has_its_http_status_also_when_a_stream_was_asked_for(kind, stream):
    async def scenario():
        error = kind("field: went wrong", retry_after_s=1.5)
        async with serving(refuses(error)) as box, box.client() as client:
            response = await client.post("/v1/chat/completions", json=chat(stream=stream))
            assert response.status_code == STATUS[kind.code][0]
            assert response.json()["error"] == {
                "message": "field: went wrong",
                "type": STATUS[kind.code][1],
                "code": kind.code,
                "param": "field",
                "retry_after_s": 1.5,
            }
            assert response.headers["retry-after"] == "2"
            assert response.headers["x-should-retry"] == str(kind.retryable).lower()

    asyncio.run(scenario())


def test_a_stream_that_fails_later_says_so_and_ends():
    async def scenario():
        async with serving(breaks_after("Hel", EngineLost("the engine died"))) as box, box.client() as client:
            response = await client.post("/v1/chat/completions", json=chat(stream=True))
            assert response.status_code == 200
            _, delta, failure, end = frames(response.text)
            assert delta["choices"][0]["delta"]["content"] == "Hel"
            assert failure["error"]["code"] == "engine_lost"
            assert end == "[DONE]"
            plain = await client.post("/v1/chat/completions", json=chat())
            assert plain.status_code == 502

    asyncio.run(scenario())


def test_a_service_that_ends_without_an_answer_is_a_defect_and_is_said_to_be_one():
    async def silent(_):
        return
        yield

    async def scenario():
        async with serving(silent) as box, box.client() as client:
            for stream in (False, True):
                response = await client.post("/v1/chat/completions", json=chat(stream=stream))
                assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")

    asyncio.run(scenario())


def test_an_exception_nobody_expected_is_a_500_in_json_and_is_logged_once(caplog):
    async def broken(_):
        raise ZeroDivisionError
        yield

    async def scenario():
        async with serving(broken) as box, box.client() as client:
            response = await client.post("/v1/chat/completions", json=chat())
            assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
            assert response.headers["x-request-id"] in caplog.text

    asyncio.run(scenario())
    assert len(caplog.records) == 1


def test_the_clients_own_id_is_used_and_returned():
    async def scenario():
        async with serving() as box, box.client() as client:
            response = await client.post("/v1/chat/completions", json=chat(id="job-7", priority=2, ttl_s=9))
            assert response.headers["x-request-id"] == response.json()["id"] == "job-7"
            request = box.service.requests[0]
            assert (request.id, request.priority, request.ttl_s) == ("job-7", 2, 9.0)

    asyncio.run(scenario())


def test_rules_of_the_service_are_refused_by_field():
    async def scenario():
        async with serving() as box, box.client() as client:
            for field, value in (("temperature", -1), ("max_tokens", 0), ("ttl_s", -2), ("priority", 10)):
                response = await client.post("/v1/chat/completions", json=chat(**{field: value}))
                assert (response.status_code, response.json()["error"]["param"]) == (400, field)

    asyncio.run(scenario())


def test_health_readiness_and_status():
    async def scenario():
        async with serving() as box, box.client() as client:
            assert (await client.get("/healthz")).json() == {"alive": True}
            assert (await client.head("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()) == (
                200,
                {"ready": True, "state": "ready", "conditions": []},
            )
            status = (await client.get("/status")).json()
            assert (status["state"], status["model"]["name"], status["schema"]) == ("ready", "Qwen3.5-2B", 1)
            info = (await client.get("/info")).json()
            assert (info["node"], info["model"]["quant"]) == ("box", "Q4_K_M")
            box.service.ready = False
            broken = await client.get("/readyz")
            assert broken.status_code == 503
            assert broken.json()["ready"] is False
            assert broken.json()["state"] == "degraded"
            assert broken.json()["conditions"][0]["code"] == "engine_broken"
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(scenario())


def test_the_one_model_is_listed_and_found_by_its_names():
    async def scenario():
        async with serving() as box, box.client() as client:
            (model,) = (await client.get("/v1/models")).json()["data"]
            assert model["id"] == "Qwen3.5-2B-Q4_K_M"
            for name in (model["id"], "qwen3.5-2b", "default"):
                assert (await client.get(f"/v1/models/{name}")).json() == model
            missing = await client.get("/v1/models/org/other")
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
            wrong = await client.post("/v1/chat/completions", json=chat(model="other"))
            assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")

    asyncio.run(scenario())


def test_the_index_names_every_route():
    async def scenario():
        async with serving() as box, box.client() as client:
            routes = (await client.get("/")).json()["routes"]
            assert routes["/v1/completions"] == ["POST"]
            assert len(routes) == 22

    asyncio.run(scenario())


def test_unknown_routes_and_wrong_methods_are_json_errors():
    async def scenario():
        async with serving() as box, box.client() as client:
            for path in ("/nope", "/v1", "/healthz/", "/../etc/passwd", "/v1/chat/completions/x"):
                response = await client.get(path)
                assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path
            wrong = await client.get("/v1/chat/completions")
            assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
            assert wrong.headers["allow"] == "POST"
            for method in ("DELETE", "PUT", "OPTIONS", "TRACE", "BREW"):
                assert (await client.request(method, "/v1/models")).status_code == 405

    asyncio.run(scenario())


def test_the_names_of_the_box_are_accepted_as_mdns_announces_them():
    async def scenario():
        async with serving() as box, box.client() as client:
            for host in (f"box.local:{box.port}", "BOX", f"{socket.gethostname().split('.')[0]}.local"):
                assert (await client.get("/status", headers={"host": host})).status_code == 200

    asyncio.run(scenario())


def test_bodies_of_another_kind_are_415():
    async def scenario():
        async with serving() as box, box.client() as client:
            body = json.dumps(chat()).encode()
            for kind in (
                "text/plain",
                "application/x-www-form-urlencoded",
                "application/json; charset=latin-1",
                "",
            ):
                response = await client.post(
                    "/v1/chat/completions", content=body, headers={"content-type": kind}
                )
                assert (response.status_code, response.json()["error"]["code"]) == (
                    415,
                    "unsupported_media_type",
                )
            zipped = {"content-type": "application/json", "content-encoding": "gzip"}
            assert (
                await client.post("/v1/chat/completions", content=body, headers=zipped)
            ).status_code == 415
            for kind in (
                "application/json",
                "Application/JSON; charset=UTF-8",
                'application/json;charset="utf-8"',
            ):
                response = await client.post(
                    "/v1/chat/completions", content=body, headers={"content-type": kind}
                )
                assert response.status_code == 200

    asyncio.run(scenario())


def test_a_taken_port_is_named_with_its_key_and_the_first_server_is_unharmed():
    async def scenario():
        async with serving() as box, box.client() as client:
            second = HttpTransport(Http(host="127.0.0.1", port=box.port), ScriptedService())
            with pytest.raises(PortInUse, match=rf"127\.0\.0\.1 port {box.port} .*http\.port") as caught:
                await second.start()
            assert caught.value.hint
            await second.stop()
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(scenario())


def test_an_address_that_is_not_here_is_named_with_its_key():
    async def scenario():
        for host in ("192.0.2.1", "no-such-host.invalid"):
            with pytest.raises(AddressMissing, match=r"http\.host"):
                await HttpTransport(Http(host=host, port=0), ScriptedService()).start()

    asyncio.run(scenario())


def test_localhost_serves_every_loopback_address_it_has():
    async def scenario():
        transport = HttpTransport(Http(host="localhost", port=0), ScriptedService())
        await transport.start()
        try:
            for server in transport._servers:
                host, port, *_ = server.sockets[0].getsockname()
                assert port == transport.address[1]
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                await close(writer)
        finally:
            await transport.stop()

    asyncio.run(scenario())
