"""The official OpenAI client, unchanged, against a real daemon with a real model."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import jsonschema
import openai
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
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "report", "description": "Report", "parameters": REPORT},
}
TOOL = {"type": "function", "name": "report", "description": "Report", "parameters": REPORT, "strict": True}
FRANCE = "What is the capital of France?"
NAME = "smollm2-135m-instruct-Q4_1"
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def client_of(daemon, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60, **options)


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[openai.OpenAI]:
    """Of a box that serves SmolLM2."""
    with (
        running_daemon(smollm2_tree(), tmp_path_factory.mktemp("box")) as daemon,
        client_of(daemon) as client,
    ):
        yield client


@pytest.fixture
def scripted(tmp_path):
    """Makes a client of a box that says what it is told to."""
    with contextlib.ExitStack() as stack:

        def start(**script) -> openai.OpenAI:
            daemon = running_daemon(fake_tree(fake_model(tmp_path, **script)), tmp_path)
            return stack.enter_context(client_of(stack.enter_context(daemon)))

        yield start


def asks(text: str, **fields):
    return {"model": NAME, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


# --- models -------------------------------------------------------------------------------


@pytest.mark.model
def test_the_model_is_listed_and_found_by_its_id(client):
    (model,) = client.models.list().data
    assert model.id == NAME
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("gpt-5")


# --- chat completions ---------------------------------------------------------------------


@pytest.mark.model
def test_a_chat_is_the_same_whole_and_as_a_stream_with_its_usage(client):
    whole = client.chat.completions.create(**asks(FRANCE, max_tokens=12))
    assert "Paris" in whole.choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            **asks(FRANCE, max_tokens=12), stream=True, stream_options={"include_usage": True}
        )
    )
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == [
        whole.choices[0].finish_reason
    ]


@pytest.mark.model
def test_the_streaming_helper_of_the_client_builds_the_message_up(client):
    with client.chat.completions.stream(**asks(FRANCE, max_tokens=8)) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        message = stream.get_final_completion().choices[0].message
    assert message.content == text != ""


@pytest.mark.model
def test_a_schema_is_kept_by_chats(client):
    form = {"type": "json_schema", "json_schema": {"name": "report", "schema": REPORT, "strict": True}}
    said = client.chat.completions.create(**asks("Is the door open?", response_format=form, max_tokens=60))
    jsonschema.validate(json.loads(said.choices[0].message.content), REPORT)


@pytest.mark.model
def test_a_required_tool_is_called_and_its_result_goes_back(client):
    body = asks("Report that it is open.", tools=[CHAT_TOOL], max_tokens=120)
    said = client.chat.completions.create(**body, tool_choice="required", parallel_tool_calls=False)
    message = said.choices[0].message
    (call,) = message.tool_calls
    assert said.choices[0].finish_reason == "tool_calls"
    jsonschema.validate(json.loads(call.function.arguments), REPORT)
    result = {"role": "tool", "content": "noted", "tool_call_id": call.id}
    body["messages"] += [message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(**body | {"max_tokens": 8})
    assert after.choices[0].finish_reason in {"stop", "length", "tool_calls"}


@pytest.mark.model
def test_a_plain_completion_goes_on_with_a_text(client):
    said = client.completions.create(model=NAME, prompt="One, two, three,", max_tokens=6, temperature=0)
    assert "four" in said.choices[0].text
    chunks = client.completions.create(
        model=NAME, prompt="One, two, three,", max_tokens=6, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == said.choices[0].text


# --- responses ----------------------------------------------------------------------------


@pytest.mark.model
def test_a_response_is_the_same_whole_and_event_by_event(client):
    asked = {"model": NAME, "input": FRANCE, "temperature": 0, "max_output_tokens": 12, "store": True}
    whole = client.responses.create(**asked)
    assert "Paris" in whole.output_text
    assert (whole.status, whole.store) in {("completed", False), ("incomplete", False)}
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    assert (last.status, last.output_text) == (whole.status, whole.output_text)
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert last.usage.input_tokens_details.cached_tokens > 0


@pytest.mark.model
def test_instructions_and_earlier_items_are_part_of_the_conversation(client):
    first = client.responses.create(
        model=NAME, instructions="Be brief.", input="My name is Ada.", temperature=0, max_output_tokens=20
    )
    turns = [{"role": "user", "content": "My name is Ada."}, *first.output]
    turns.append({"role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]})
    then = client.responses.create(
        model=NAME, instructions="Be brief.", input=turns, temperature=0, max_output_tokens=20
    )
    assert then.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert then.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 8


@pytest.mark.model
def test_a_schema_is_kept_by_responses_and_parsed_by_the_client(client):
    form = {"format": {"type": "json_schema", "name": "report", "schema": REPORT, "strict": True}}
    said = client.responses.create(
        model=NAME, input="Is the door open?", text=form, temperature=0, max_output_tokens=60
    )
    jsonschema.validate(json.loads(said.output_text), REPORT)


@pytest.mark.model
def test_a_response_calls_a_function_whole_and_as_a_stream_and_takes_its_result(client):
    asked = {
        "model": NAME,
        "input": "Report that it is open.",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "report"},
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_output_tokens": 120,
    }
    whole = client.responses.create(**asked)
    (call,) = [item for item in whole.output if item.type == "function_call"]
    jsonschema.validate(json.loads(call.arguments), REPORT)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert len(pieces) > 1
    assert "".join(pieces) == done.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "noted"}
    turns = [{"role": "user", "content": asked["input"]}, *whole.output, result]
    then = client.responses.create(**asked | {"input": turns, "tool_choice": "none", "max_output_tokens": 8})
    assert then.output[-1].type == "message"


def test_a_thought_is_an_item_of_its_own_with_its_tokens_counted(scripted):
    thinks = scripted(answer="2 and 2</think>4")
    asked = {"model": "fake", "input": "2 + 2?", "reasoning": {"effort": "high"}}
    whole = thinks.responses.create(**asked)
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.output[0].content[0].text == "2 and 2"
    assert whole.output_text == "4"
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
    with thinks.responses.stream(**asked) as stream:
        events = list(stream)
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "2 and 2"
    assert events[-1].response.output_text == "4"
    chat = thinks.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "2 + 2?"}], reasoning_effort="high"
    )
    assert chat.choices[0].message.reasoning_content == "2 and 2"
    assert chat.usage.completion_tokens_details.reasoning_tokens > 0


def test_a_response_that_is_cut_says_so(scripted):
    box = scripted(answer="one two three four five")
    said = box.responses.create(model="fake", input="Count.", max_output_tokens=7)
    assert (said.status, said.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert said.output_text == "one two"
    with box.responses.stream(model="fake", input="Count.", max_output_tokens=7) as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


# --- embeddings ---------------------------------------------------------------------------


@pytest.mark.model
def test_vectors_are_the_same_as_numbers_and_as_bytes(tmp_path):
    tree = fake_tree(
        random_bert(tmp_path), model={"backend": "llama", "context": 128, "embeddings": True, "name": "bert"}
    )
    with running_daemon(tree, tmp_path) as daemon, client_of(daemon) as client:
        packed = client.embeddings.create(model="bert", input=["warm", "cold"])  # asks for base64 by itself
        plain = client.embeddings.create(model="bert", input=["warm", "cold"], encoding_format="float")
        assert len(packed.data) == 2
        for one, other in zip(packed.data, plain.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert plain.data[0].embedding != plain.data[1].embedding
        assert packed.usage.prompt_tokens > 0
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="bert", input="x", dimensions=3)
        with pytest.raises(openai.BadRequestError, match="input: "):
            client.embeddings.create(model="bert", input=[])


# --- errors -------------------------------------------------------------------------------


@pytest.mark.model
def test_every_error_is_the_clients_own_for_it_and_names_the_field(client):
    hi = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-5", messages=hi)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=NAME, messages=hi, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unfit:
        client.responses.create(model=NAME, input="hi", max_output_tokens=10**6)
    assert unfit.value.param == "max_output_tokens"
    with pytest.raises(openai.BadRequestError) as stored:
        client.responses.create(model=NAME, input="hi", previous_response_id="resp_1")
    assert stored.value.param == "previous_response_id"
    assert "not stored" in stored.value.message
    with pytest.raises(openai.APIStatusError) as large:
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "x" * 70_000}])
    assert (large.value.status_code, large.value.code) == (413, "too_large")


@pytest.mark.model
def test_pictures_are_refused_by_chats_and_responses_alike(client):
    part = {"type": "image_url", "image_url": {"url": PICTURE}}
    with pytest.raises(openai.BadRequestError, match="cannot see pictures") as chat:
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": [part]}])
    part = {"type": "input_image", "image_url": PICTURE, "detail": "auto"}
    with pytest.raises(openai.BadRequestError, match="cannot see pictures") as response:
        client.responses.create(model=NAME, input=[{"role": "user", "content": [part]}])
    assert chat.value.code == response.value.code == "no_vision"


def test_a_busy_box_says_when_to_come_back(tmp_path):
    script = {"step_s": 0.05, "answer": long_text(400)}
    tree = fake_tree(fake_model(tmp_path, **script), model={"slots": 1}, limits={"queue": 1})
    hi = [{"role": "user", "content": "hi"}]
    with running_daemon(tree, tmp_path) as daemon, client_of(daemon) as client:
        taken = [client.chat.completions.create(model="fake", messages=hi, stream=True) for _ in range(2)]
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as busy:
                client.responses.create(model="fake", input="hi", stream=stream)
            assert busy.value.code == "busy"
            assert int(busy.value.response.headers["retry-after"]) >= 1
        for stream in taken:
            stream.close()
