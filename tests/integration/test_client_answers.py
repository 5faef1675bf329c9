"""Answers that programs use, through the client and the commands, from real daemons over both transports."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import jsonschema
import pytest

from edgectl.client import ChatSession, EdgeClient
from edged.api.errors import BadRequest
from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import running_daemon

DEADLINE_S = 30.0
CALL = '<tool_call>\n{"name": "ping", "arguments": {"x": "é"}}\n</tool_call>'
PING = {"name": "ping", "description": "Say hello", "parameters": {"type": "object"}}
REPORT = {
    "type": "object",
    "properties": {"open": {"type": "boolean"}},
    "required": ["open"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """A box that answers and one that makes vectors; the urls of each by scheme."""
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "talk.fake").write_text(f"answer = {json.dumps(f'<think>Hm.</think>Well.{CALL}')}\n")
    (folder / "vectors.fake").write_text("")
    trees = {
        "talk": {"model": {"path": str(folder / "talk.fake"), "backend": "fake", "slots": 2}},
        "vectors": {"model": {"path": str(folder / "vectors.fake"), "backend": "fake", "embeddings": True}},
    }
    for node, tree in trees.items():
        tree |= {"node": node, "memory": {"budget_mib": 512}}
        (folder / node).mkdir()
    (folder / "broker").mkdir()
    urls: dict[str, dict[str, str]] = {"talk": {}, "vectors": {}}
    if MOSQUITTO is None:
        with (
            running_daemon(trees["talk"], folder / "talk") as talk,
            running_daemon(trees["vectors"], folder / "vectors") as vectors,
        ):
            yield {"talk": {"http": talk.url}, "vectors": {"http": vectors.url}}
        return
    with Broker(folder / "broker", "allow_anonymous true") as broker:
        for tree in trees.values():
            tree["mqtt"] = {"enabled": True, "port": broker.port}
        with (
            running_daemon(trees["talk"], folder / "talk") as talk,
            running_daemon(trees["vectors"], folder / "vectors") as vectors,
        ):
            for node, daemon in (("talk", talk), ("vectors", vectors)):
                mqtt = f"mqtt://127.0.0.1:{broker.port}/edged/{node}"
                urls[node] = {"http": daemon.url, "mqtt": mqtt}
            yield urls


@pytest.fixture(params=["http", "mqtt"])
def urls(request, boxes):
    """The urls of both boxes over one transport."""
    if request.param not in boxes["talk"]:
        pytest.skip("mosquitto is not installed")
    return {node: schemes[request.param] for node, schemes in boxes.items()}


@pytest.fixture
def client(urls):
    with EdgeClient(urls["talk"], timeout_s=DEADLINE_S) as client:
        yield client


def edgectl(url, *arguments, **options):
    command = [sys.executable, "-m", "edgectl", *arguments, "--url", url]
    options = {"stdin": subprocess.DEVNULL} | options
    if "input" in options:
        del options["stdin"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_S, env=os.environ, **options
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("stream", [False, True])
def test_thought_calls_probabilities_and_figures_come_with_the_answer(client, stream):
    options = {"tools": [PING], "logprobs": 2}
    if stream:
        with client.stream("?", **options) as pieces:
            assert "".join(pieces) == "Well."
        answer = pieces.answer
    else:
        answer = client.generate("?", **options)
    assert (answer.text, answer.reasoning, answer.finish) == ("Well.", "Hm.", "tool_calls")
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("ping", {"x": "é"})
    said = b"".join(one.token for one in answer.logprobs).decode("utf-8", "replace")
    assert said.startswith("Well.<tool_call>")
    assert all(len(one.top) == 2 and one.logprob < 0 for one in answer.logprobs)
    assert answer.usage.completion_tokens > 60
    assert answer.usage.cached_tokens >= 0
    assert answer.timings.total_ms >= answer.timings.first_ms > 0
    assert answer.tokens_per_s > 0


def test_a_conversation_goes_on_with_the_result_of_a_call(client):
    chat = ChatSession(client)
    (call,) = chat.send("?", tools=[PING]).tool_calls
    assert chat.messages[-1].tool_calls == (call,)
    result = {"role": "tool", "content": "hello", "tool_call_id": call.id}
    answer = client.chat([*chat.messages, result], tools=[PING], tool_choice="none")
    assert answer.finish == "stop"
    assert answer.text == f"Well.{CALL}"


def test_an_answer_has_the_form_that_was_asked_for(client):
    jsonschema.validate(json.loads(client.generate("?", schema=REPORT).text), REPORT)
    assert isinstance(json.loads(client.generate("?", json_mode=True).text), dict)
    assert client.generate("?", choices=["yes", "no"]).text in {"yes", "no"}
    (call,) = client.generate("?", tools=[PING], tool_choice="ping", parallel_tool_calls=False).tool_calls
    assert call.name == "ping"
    assert client.generate("?", thinking_budget=1).reasoning.endswith("based on the thinking directly now.")
    with pytest.raises(BadRequest, match=r"schema\.not"):
        client.generate("?", schema={"not": {}})


def test_choices_are_scored(client):
    found = client.classify("Is the door open?", ["yes", "no", "maybe"], system="Be short.", scoring="sum")
    assert [score.choice for score in found.scores] == ["yes", "no", "maybe"]
    assert math.isclose(sum(score.probability for score in found.scores), 1, abs_tol=1e-6)
    assert found.choice == max(found.scores, key=lambda score: score.probability).choice
    assert found.usage.prompt_tokens > len("Is the door open?")
    with pytest.raises(BadRequest, match="choices"):
        client.classify("?", ["only"])


def test_texts_become_vectors(urls):
    with EdgeClient(urls["vectors"], timeout_s=DEADLINE_S) as client:
        found = client.embed(["one", "two", "three"])
        assert len(found.vectors) == 3
        assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-5) for vector in found.vectors)
        assert client.embed("two").vectors[0] == found.vectors[1]
        assert found.usage.prompt_tokens >= len("onetwothree")
        with pytest.raises(BadRequest, match=r"inputs?: "):
            client.embed([])


def test_classify_prints_the_likeliest_first_and_json_for_scripts(urls):
    status, said, _ = edgectl(urls["talk"], "classify", "--choices", "yes, no", "-c", "maybe", "Open?")
    lines = [line.split("  ") for line in said.splitlines()]
    assert status == 0
    assert {choice for _, choice in lines} == {"yes", "no", "maybe"}
    assert [float(share) for share, _ in lines] == sorted((float(share) for share, _ in lines), reverse=True)
    _, said, _ = edgectl(urls["talk"], "classify", "-c", "yes,no", "--json", input="Open?\n")
    found = json.loads(said)
    assert found["choice"] in {"yes", "no"}
    assert [score["choice"] for score in found["scores"]] == ["yes", "no"]
    assert found["usage"]["prompt_tokens"] > 0
    status, _, errors = edgectl(urls["talk"], "classify", "--choices", "yes", "Open?")
    assert (status, "at least two" in errors) == (2, True)


def test_embed_prints_a_vector_a_line_and_json_for_scripts(urls):
    status, said, _ = edgectl(urls["vectors"], "embed", "one", input="two\n\nthree\n")
    vectors = [json.loads(line) for line in said.splitlines()]
    assert (status, len(vectors)) == (0, 3)
    _, said, _ = edgectl(urls["vectors"], "embed", "--json", "two")
    assert json.loads(said)["vectors"] == [vectors[1]]
    status, _, errors = edgectl(urls["talk"], "embed", "two")
    assert (status, "model.embeddings" in errors) == (2, True)
    assert edgectl(urls["talk"], "embed")[0] == 2
