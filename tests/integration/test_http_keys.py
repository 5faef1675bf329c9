"""Several keys over a real socket: who asks, what each key may, and changes while the box serves."""

from __future__ import annotations

import asyncio
import json

import pytest

from edged.transports.http import auth
from tests.kit.http_serving import DEADLINE_S, chat, close, says, serving, stalls, until
from tests.kit.keys import KEY, put_keys

OTHER = "edged_another-key-of-these-tests-for-another-client"
BOTH = {"phone": KEY, "door": OTHER}
CHAT = "/v1/chat/completions"
# Each route that does work, with a good body of its dialect.
WORK = [
    (CHAT, chat()),
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/classify", {"prompt": "x", "choices": ["a", "b"]}),
    ("/v1/embeddings", {"input": "x"}),
    ("/v1/responses", {"input": "x"}),
    ("/api/chat", chat(stream=False)),
    ("/api/generate", {"prompt": "x", "stream": False}),
]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def keyed(tmp_path, tokens=None, **limits) -> str:
    return str(put_keys(tmp_path / "keys.toml", tokens or BOTH, **limits))


@pytest.mark.parametrize(("path", "body"), WORK)
def test_the_name_of_the_key_is_who_asks_whatever_the_address(tmp_path, path, body):
    async def scenario():
        async with serving(keys_file=keyed(tmp_path)) as box, box.client() as client:
            for key in (KEY, OTHER):
                await client.post(path, json=body, headers=bearer(key))
            assert [request.client for request in box.service.requests] == ["key:phone", "key:door"]

    asyncio.run(scenario())


def test_a_stranger_hears_whether_the_box_is_ready_and_not_what_is_wrong_with_it(tmp_path):
    async def scenario():
        async with serving(keys_file=keyed(tmp_path)) as box, box.client() as client:
            box.service.ready = False
            for headers in ({}, bearer("wrong")):
                told = await client.get("/readyz", headers=headers)
                assert (told.status_code, told.json()) == (503, {"ready": False, "state": "degraded"})
            told = await client.get("/readyz", headers=bearer(KEY))
            assert told.json()["conditions"][0]["code"] == "engine_broken"

    asyncio.run(scenario())


@pytest.mark.parametrize(("path", "body"), WORK)
def test_requests_above_a_minutes_are_told_when_to_come_back_and_other_keys_go_on(tmp_path, path, body):
    async def scenario():
        async with serving(keys_file=keyed(tmp_path, per_minute=2)) as box, box.client() as client:
            answers = [await client.post(path, json=body, headers=bearer(KEY)) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
            refused = answers[-1]
            told = refused.json()["error"]
            assert "'phone' has used its 2 requests" in (told["message"] if isinstance(told, dict) else told)
            assert isinstance(told, str) or told["code"] == "busy"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-should-retry"] == "true"
            assert (await client.post(path, json=body, headers=bearer(OTHER))).status_code == 200
            assert (await client.get("/status", headers=bearer(KEY))).status_code == 200  # no work, no limit
            assert len(box.service.requests) == 3

    asyncio.run(scenario())


def test_a_stream_above_the_limit_is_refused_with_its_status(tmp_path):
    async def scenario():
        async with serving(keys_file=keyed(tmp_path, per_minute=1)) as box, box.client() as client:
            for status in (200, 429):
                answer = await client.post(CHAT, json=chat(stream=True), headers=bearer(KEY))
                assert answer.status_code == status

    asyncio.run(scenario())


def test_requests_at_once_are_counted_until_they_end_however_they_end(tmp_path):
    async def scenario():
        async with serving(stalls("x"), keys_file=keyed(tmp_path, at_once=1)) as box, box.client() as client:
            _, writer = await box.connect()
            writer.write(box.post(chat(), headers=f"Authorization: Bearer {KEY}\r\n"))
            await until(lambda: box.service.running == 1)
            refused = await client.post(CHAT, json=chat(), headers=bearer(KEY))
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "2"
            box.service.play = says("quick")
            assert (await client.post(CHAT, json=chat(), headers=bearer(OTHER))).status_code == 200
            await close(writer)  # a hang-up gives the place back
            await until(lambda: box.service.running == 0)
            for _ in range(3):
                assert (await client.post(CHAT, json=chat(), headers=bearer(KEY))).status_code == 200

    asyncio.run(scenario())


def test_a_key_bounds_the_tokens_of_an_answer_and_what_it_never_allows_is_not_worth_a_retry(tmp_path):
    async def scenario():
        async with serving(keys_file=keyed(tmp_path, max_tokens=8)) as box, box.client() as client:
            fine = [chat(max_tokens=8), chat(max_completion_tokens=3), chat()]
            for body in fine:
                assert (await client.post(CHAT, json=body, headers=bearer(KEY))).status_code == 200
            assert [request.max_tokens for request in box.service.requests] == [8, 3, 8]
            refused = await client.post(CHAT, json=chat(max_tokens=9), headers=bearer(KEY))
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "max_tokens"
            assert refused.headers["x-should-retry"] == "false"

    asyncio.run(scenario())


def test_keys_made_and_removed_while_the_box_serves_hold_without_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "LOOK_EVERY_S", 0.0)

    async def scenario():
        async with serving(keys_file=keyed(tmp_path, {"phone": KEY})) as box, box.client() as client:

            async def status(key):
                return (await client.get("/info", headers=bearer(key))).status_code

            assert (await status(KEY), await status(OTHER)) == (200, 401)
            keyed(tmp_path, {"door": OTHER})
            assert (await status(KEY), await status(OTHER)) == (401, 200)
            (tmp_path / "keys.toml").write_text("no = [toml")
            assert (await status(KEY), await status(OTHER)) == (401, 200)
            condition = box.transport.condition()
            assert (condition.code, condition.severity) == ("keys_not_read", "error")
            keyed(tmp_path, BOTH)
            assert (await status(KEY), await status(OTHER)) == (200, 200)
            assert box.transport.condition() is None
            (tmp_path / "keys.toml").unlink()
            assert (await status(KEY), await status(OTHER)) == (401, 401)

    asyncio.run(scenario())


def test_a_request_under_way_ends_well_though_its_key_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "LOOK_EVERY_S", 0.0)
    gate = asyncio.Event()

    async def scenario():
        async with serving(keys_file=keyed(tmp_path, at_once=1)) as box, box.client() as client:
            answer = says("whole")

            async def play(request):
                await gate.wait()
                async for event in answer(request):
                    yield event

            box.service.play = play
            asked = asyncio.ensure_future(client.post(CHAT, json=chat(), headers=bearer(KEY)))
            await until(lambda: box.service.running == 1)
            keyed(tmp_path, {"door": OTHER})
            assert (await client.get("/info", headers=bearer(KEY))).status_code == 401
            gate.set()
            response = await asyncio.wait_for(asked, DEADLINE_S)
            assert json.loads(response.text)["choices"][0]["message"]["content"] == "whole"

    asyncio.run(scenario())
