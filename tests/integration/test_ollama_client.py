"""The official Ollama client, unchanged, against a real daemon with a real model."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING

import httpx
import jsonschema
import ollama
import pytest

from tests.kit.daemon import running_daemon
from tests.kit.model import smollm2_tree
from tests.kit.random_bert import random_bert
from tests.kit.service import fake_model, fake_tree, long_text

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT = {
    "type": "object",
    "properties": {"open": {"type": "boolean"}, "level": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["open", "level"],
    "additionalProperties": False,
}
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
NAME = "smollm2-135m-instruct-Q4_1"
PICTURE = base64.b64encode(b"no picture").decode()


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[ollama.Client]:
    """Of a box that serves SmolLM2."""
    with (
        running_daemon(smollm2_tree(), tmp_path_factory.mktemp("box")) as daemon,
        ollama.Client(daemon.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def scripted(tmp_path):
    """Makes a client of a box that says what it is told to."""
    with contextlib.ExitStack() as stack:

        def start(**script) -> ollama.Client:
            daemon = running_daemon(fake_tree(fake_model(tmp_path, **script)), tmp_path)
            return stack.enter_context(ollama.Client(stack.enter_context(daemon).url, timeout=60))

        yield start


def options(**more):
    return {"temperature": 0, "num_predict": 12, **more}


# --- chat and generate --------------------------------------------------------------------


@pytest.mark.model
def test_a_chat_is_the_same_whole_and_as_a_stream(client):
    whole = client.chat(NAME, FRANCE, options=options())
    assert "Paris" in whole.message.content
    assert whole.message.role == "assistant"
    *pieces, last = client.chat(NAME, FRANCE, options=options(), stream=True)
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert not any(piece.done for piece in pieces)
    assert last.done
    assert last.done_reason == whole.done_reason
    assert (last.eval_count, last.prompt_eval_count) == (whole.eval_count, whole.prompt_eval_count)
    for told in (whole, last):
        assert 0 < told.eval_duration < told.total_duration
        assert told.prompt_eval_duration > 0
        assert told.model == NAME


@pytest.mark.model
def test_a_question_is_a_chat_and_a_raw_prompt_is_gone_on_with(client):
    asked = client.generate(NAME, FRANCE[0]["content"], system="Be brief.", options=options())
    assert "Paris" in asked.response
    raw = client.generate(NAME, "One, two, three,", raw=True, options=options(num_predict=6))
    assert "four" in raw.response
    pieces = list(
        client.generate(NAME, "One, two, three,", raw=True, options=options(num_predict=6), stream=True)
    )
    assert "".join(piece.response for piece in pieces) == raw.response
    assert pieces[-1].done_reason == "length"


@pytest.mark.model
def test_a_schema_is_kept(client):
    said = client.chat(NAME, FRANCE, format=REPORT, options=options(num_predict=60))
    jsonschema.validate(json.loads(said.message.content), REPORT)


def test_an_answer_in_json_is_an_object(scripted):
    said = scripted(answer="Hello! Well").generate("fake", "Say hello as JSON.", format="json")
    assert isinstance(json.loads(said.response), dict)


def test_a_tool_is_called_and_its_result_goes_back(scripted):
    def report(level: int) -> str:
        """Report it.

        Args:
          level: how far it is open
        """
        return str(level)

    called = "<function=report>\n<parameter=level>\n7\n</parameter>\n</function>"
    box = scripted(answer=f"Well.<tool_call>\n{called}\n</tool_call>")
    turns = [{"role": "user", "content": "How far is it open?"}]
    for stream in (False, True):
        said = box.chat("fake", turns, tools=[report], stream=stream)
        said = [piece for piece in said if piece.message.tool_calls] if stream else [said]
        (called,) = said[0].message.tool_calls
        assert (called.function.name, called.function.arguments) == ("report", {"level": 7})
    before = box.chat("fake", turns).prompt_eval_count
    turns += [said[0].message, {"role": "tool", "tool_name": "report", "content": report(7)}]
    after = box.chat("fake", turns, tools=[report])
    assert after.done_reason == "stop"
    assert after.prompt_eval_count > before + len("report")


def test_a_thought_stands_beside_the_answer(scripted):
    box = scripted(answer="2 and 2</think>4")
    whole = box.chat("fake", FRANCE, think=True)
    assert (whole.message.thinking, whole.message.content) == ("2 and 2", "4")
    pieces = list(box.chat("fake", FRANCE, think="high", stream=True))
    assert "".join(piece.message.thinking or "" for piece in pieces) == "2 and 2"
    assert "".join(piece.message.content for piece in pieces) == "4"
    generated = box.generate("fake", "2 + 2?", think=True)
    assert (generated.thinking, generated.response) == ("2 and 2", "4")


@pytest.mark.model
def test_probabilities_are_told_for_each_token(client):
    said = client.chat(NAME, FRANCE, logprobs=True, top_logprobs=2, options=options(num_predict=4))
    assert len(said.logprobs) == 4
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in said.logprobs)


@pytest.mark.model
def test_who_asks_for_the_model_alone_hears_that_it_is_there(client):
    assert client.generate(NAME, keep_alive="10m").done_reason == "load"
    assert client.chat(NAME, [], keep_alive=0).done_reason == "load"


# --- models -------------------------------------------------------------------------------


@pytest.mark.model
def test_the_model_is_listed_shown_and_running_and_answers_to_the_name_in_the_list(client):
    (listed,) = client.list().models
    assert (listed.model, listed.details.quantization_level) == (NAME, "Q4_1")
    assert listed.size > 50_000_000
    assert listed.digest == "0" * 64, "no digest is configured"
    shown = client.show(listed.model)
    assert shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"] == 1024
    assert shown.capabilities == ["completion", "tools"]
    (running,) = client.ps().models
    assert (running.model, running.context_length) == (NAME, 1024)
    assert running.size > 0
    for name in (listed.model, f"{listed.model}:latest", "smollm2-135m-instruct:Q4_1"):
        assert client.chat(name, FRANCE, options=options(num_predict=1)).done


@pytest.mark.model
def test_changing_models_is_refused_with_the_command_that_does_it(client):
    attempts = (
        lambda: client.pull("qwen3:0.6b"),
        lambda: list(client.pull("qwen3:0.6b", stream=True)),
        lambda: client.push("mine"),
        lambda: client.create("mine", from_=NAME),
        lambda: client.copy(NAME, "mine"),
        lambda: client.delete(NAME),
    )
    for attempt in attempts:
        with pytest.raises(ollama.ResponseError, match="edgectl models pull") as refused:
            attempt()
        assert refused.value.status_code == 403


@pytest.mark.model
def test_vectors_of_one_text_and_of_many(tmp_path):
    tree = fake_tree(
        random_bert(tmp_path), model={"backend": "llama", "context": 128, "embeddings": True, "name": "bert"}
    )
    with running_daemon(tree, tmp_path) as daemon, ollama.Client(daemon.url, timeout=60) as client:
        many = client.embed("bert", ["warm", "cold"])
        one = client.embed("bert", "warm")
        assert len(many.embeddings) == 2
        assert one.embeddings[0] == pytest.approx(many.embeddings[0], abs=1e-5)
        assert client.embeddings("bert", "warm").embedding == pytest.approx(one.embeddings[0])
        assert sum(value * value for value in one.embeddings[0]) == pytest.approx(1, abs=1e-4)
        assert many.prompt_eval_count > one.prompt_eval_count > 0
        assert client.show("bert").capabilities == ["embedding"]
        with pytest.raises(ollama.ResponseError, match=r"^input: ") as refused:
            client.embed("bert", [])
        assert refused.value.status_code == 400


# --- errors -------------------------------------------------------------------------------


@pytest.mark.model
def test_every_error_names_the_field_in_words_of_this_dialect(client):
    cases = (
        (404, "^model: 'llama3' is not served here", lambda: client.chat("llama3", FRANCE)),
        (404, "^model: ", lambda: list(client.generate("llama3", "hi", stream=True))),
        (404, "^model: ", lambda: client.show("llama3")),
        (400, "^options.num_ctx: ", lambda: client.chat(NAME, FRANCE, options={"num_ctx": 8192})),
        (400, "^options.num_predict: ", lambda: client.chat(NAME, FRANCE, options={"num_predict": 10**6})),
        (400, "^options.temperature: ", lambda: client.chat(NAME, FRANCE, options={"temperature": 9})),
        (400, "^options.mirostat: ", lambda: client.chat(NAME, FRANCE, options={"mirostat": 2})),
        (400, "^format.uniqueItems: ", lambda: client.chat(NAME, FRANCE, format={"uniqueItems": True})),
        (413, "prompt has", lambda: client.generate(NAME, "x" * 70_000)),
    )
    for status, words, ask in cases:
        with pytest.raises(ollama.ResponseError, match=words) as refused:
            ask()
        assert refused.value.status_code == status


@pytest.mark.model
def test_pictures_are_refused_in_words(client):
    with pytest.raises(ollama.ResponseError, match="cannot see pictures"):
        client.generate(NAME, "What is this?", images=[PICTURE])
    with pytest.raises(ollama.ResponseError, match=r"messages\[0\].images: .*cannot see pictures"):
        client.chat(NAME, [{"role": "user", "content": "What is this?", "images": [PICTURE]}])


def test_a_busy_box_says_so_as_an_error_of_the_client(tmp_path):
    script = {"step_s": 0.05, "answer": long_text(400)}
    tree = fake_tree(fake_model(tmp_path, **script), model={"slots": 1}, limits={"queue": 1})
    with running_daemon(tree, tmp_path) as daemon, contextlib.ExitStack() as others:
        for _ in range(2):  # one is answered, one waits
            others.enter_context(
                httpx.stream("POST", f"{daemon.url}/api/chat", json={"model": "fake", "messages": FRANCE})
            )
        box = others.enter_context(ollama.Client(daemon.url, timeout=60))
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match="queue") as busy:
                list(box.chat("fake", FRANCE, stream=stream))
            assert busy.value.status_code == 429
