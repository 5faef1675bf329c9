"""Scores and embeddings over HTTP, from a real socket to a real worker with the fake engine."""

from __future__ import annotations

import asyncio
import base64
import struct
from contextlib import asynccontextmanager

import pytest

from tests.kit.http_serving import serving
from tests.kit.service import fake_model, fake_tree, running_service

CHOICES = ["open", "shut", "ajar"]
HI = [{"role": "user", "content": "How is the door?"}]


@asynccontextmanager
async def client_of(tmp_path, *, embeddings: bool = False, **script):
    tree = fake_tree(fake_model(tmp_path, **script), model={"embeddings": embeddings})
    async with running_service(tree, tmp_path) as inner:
        await inner.ready()
        async with serving(service=inner.service) as box, box.client() as client:
            yield client


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_choices_are_scored_after_a_conversation_and_after_a_raw_prompt(tmp_path):
    async def scenario():
        async with client_of(tmp_path, answer="ajar") as client:
            for question in ({"messages": HI}, {"prompt": "The door is"}):
                body = {"choices": CHOICES, "model": "fake", "id": "door-1", **question}
                response = await client.post("/v1/classify", json=body)
                assert response.status_code == 200
                answer = response.json()
                assert answer["object"] == "classification"
                assert answer["choice"] == "ajar"
                assert [score["choice"] for score in answer["scores"]] == CHOICES
                assert sum(score["probability"] for score in answer["scores"]) == pytest.approx(1)
                assert [score["tokens"] for score in answer["scores"]] == [1, 1, 1]
                assert answer["id"] == response.headers["x-request-id"] == "door-1"
                assert answer["usage"]["prompt_tokens"] > 0
            short = {"prompt": "x", "choices": ["ajar", "a"], "scoring": "sum"}
            sums = (await client.post("/v1/classify", json=short)).json()["scores"]
            means = (await client.post("/v1/classify", json={**short, "scoring": "mean"})).json()["scores"]
            assert sums[0]["logprob"] == means[0]["logprob"]
            assert sums[0]["probability"] != pytest.approx(means[0]["probability"])

    run(scenario())


def test_choices_are_scored_behind_a_template_of_the_box(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path), templates={"door": {"system": "You watch a door."}})
        async with running_service(tree, tmp_path) as inner:
            await inner.ready()
            async with serving(service=inner.service) as box, box.client() as client:
                body = {"messages": HI, "choices": CHOICES}
                plain = (await client.post("/v1/classify", json=body)).json()
                with_it = (await client.post("/v1/classify", json={**body, "template": "door"})).json()
                more = with_it["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"]
                assert more > len("You watch a door.")
                refused = await client.post("/v1/classify", json={**body, "template": "gate"})
                assert refused.json()["error"]["param"] == "template"

    run(scenario())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "x"}, "choices"),
        ({"prompt": "x", "choices": ["a"]}, "choices"),
        ({"prompt": "x", "choices": ["a", "a"]}, "choices"),
        ({"prompt": "x", "choices": ["a", ""]}, "choices"),
        ({"prompt": "x", "choices": ["a", "b" * 257]}, "choices"),
        ({"prompt": "x", "choices": [str(n) for n in range(65)]}, "choices"),
        ({"choices": ["a", "b"]}, "messages"),
        ({"choices": ["a", "b"], "prompt": "x", "messages": HI}, "messages"),
        ({"choices": ["a", "b"], "prompt": "x", "scoring": "median"}, "scoring"),
        ({"choices": ["a", "b"], "prompt": "x", "stream": True}, "stream"),
        ({"choices": ["a", "b"], "prompt": "x", "id": "no blanks"}, "id"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_the_name_of_the_field(tmp_path, body, field):
    async def scenario():
        async with client_of(tmp_path) as client:
            response = await client.post("/v1/classify", json=body)
            assert response.status_code == 400
            assert response.json()["error"]["message"].startswith(field)

    run(scenario())


def test_texts_become_embeddings_as_numbers_or_as_bytes(tmp_path):
    async def scenario():
        async with client_of(tmp_path, embeddings=True) as client:
            plain = (await client.post("/v1/embeddings", json={"input": ["warm", "cold"]})).json()
            assert plain["object"] == "list"
            assert [item["index"] for item in plain["data"]] == [0, 1]
            assert plain["usage"] == {
                "prompt_tokens": 8,
                "completion_tokens": 0,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 0},
            }
            one = {"input": "warm", "encoding_format": "base64", "user": "me"}
            packed = (await client.post("/v1/embeddings", json=one)).json()["data"][0]["embedding"]
            numbers = struct.unpack("<8f", base64.b64decode(packed))
            assert numbers == pytest.approx(plain["data"][0]["embedding"])
            for wrong in ({}, {"input": []}, {"input": ""}, {"input": "x", "dimensions": 3}):
                assert (await client.post("/v1/embeddings", json=wrong)).status_code == 400
            refused = await client.post("/v1/classify", json={"prompt": "x", "choices": ["a", "b"]})
            assert refused.status_code == 400
            assert "embed" in refused.json()["error"]["message"]

    run(scenario())


def test_a_box_with_a_chat_model_refuses_embeddings_and_goes_on(tmp_path):
    async def scenario():
        async with client_of(tmp_path) as client:
            refused = await client.post("/v1/embeddings", json={"input": "x"})
            assert refused.status_code == 400
            assert "model.embeddings" in refused.json()["error"]["message"]
            assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200

    run(scenario())
