"""Answers of real engines have the form they were asked for, whatever the model would rather say."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edged.api.events import whole_calls
from edged.api.requests import Message, Sampling, Tool
from edged.ipc.messages import Done, EngineOptions, Rejected, Token
from edged.worker.backends.fake import FakeBackend, Script
from edged.worker.backends.llama import load_llama
from tests.kit.decoding import Stage
from tests.kit.grammar_text import schemas
from tests.kit.model import smollm2
from tests.kit.random_model import random_model
from tests.kit.templates import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.model

SLOTS = 8
WEATHER = Tool(
    name="get_weather",
    description="The weather of a city",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "unit", "days"],
        }
    ),
)


def load(path, **options: Any) -> Iterator[tuple[Any, EngineOptions]]:
    chosen = EngineOptions(
        **{"context": 1024, "slots": SLOTS, "ubatch": 64, "threads": 2, "repack": False, **options}
    )
    backend = load_llama(str(path), chosen, lambda: None)
    yield backend, chosen
    backend.close()


@pytest.fixture(scope="module")
def talker():
    yield from load(smollm2())


@pytest.fixture(scope="module")
def babbler(tmp_path_factory):
    """A model of random weights: it obeys nothing but the form."""
    yield from load(random_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """One that writes calls as functions, and opens its thought in the prompt."""
    yield from load(random_model(tmp_path_factory.mktemp("model"), template=FUNCTIONS))


def says(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def ask(stage: Stage, key: int, text: str, **fields: Any) -> None:
    stage.start(key, messages=says(text), **{"max_tokens": 200, **fields})


def channel(stage: Stage, key: int, name: str) -> str:
    said = (one for one in stage.said if isinstance(one, Token) and one.key == key)
    return "".join(one.text for one in said if one.channel == name)


def calls(stage: Stage, key: int):
    said = (one for one in stage.said if isinstance(one, Token) and one.key == key)
    return whole_calls(piece for one in said for piece in one.tool_calls)


def check(stage: Stage, key: int, schema: Any) -> bool:
    """Whether the answer came to its end; then it must be JSON and valid."""
    end = stage.end(key)
    assert isinstance(end, Done), end
    text = stage.text(key)
    if end.finish != "stop":  # which may cut a character of several tokens
        assert end.finish in {"length", "repetition"}
        return False
    assert "�" not in text
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    return True


complete: list[bool] = []


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],  # a failure is to be seen, and the engine is too slow to shrink it
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(asked=st.lists(schemas, min_size=10, max_size=10), seed=st.integers(0, 2**31))
def test_answers_to_200_generated_schemas_are_valid(babbler, asked, seed):
    backend, options = babbler
    for seq in range(SLOTS):
        backend.forget(seq)
    stage = Stage(backend, options)
    dice = random.Random(seed)
    for key, schema in enumerate(asked):
        # Half of them draw with all their might, so that hardly any token is allowed at once.
        sampling = Sampling(
            temperature=dice.choice([0.0, 1.5]), top_k=0, top_p=1.0, min_p=0.0, seed=seed + key
        )
        ask(stage, key, "JSON!", schema=json.dumps(schema), sampling=sampling, max_tokens=150)
    stage.play()
    complete.extend(check(stage, key, schema) for key, schema in enumerate(asked))


def test_most_of_them_came_to_their_end():
    assert not complete or sum(complete) > 0.5 * len(complete), f"{sum(complete)} of {len(complete)}"


REPORT = {
    "type": "object",
    "properties": {
        "animal": {"type": "string", "maxLength": 20},
        "legs": {"type": "integer", "minimum": 0, "maximum": 100},
        "tame": {"type": "boolean"},
        "colours": {"type": "array", "items": {"enum": ["black", "white", "brown"]}, "maxItems": 2},
    },
    "required": ["animal", "legs", "tame", "colours"],
}


def test_a_real_model_fills_a_schema_while_others_talk(talker):
    backend, options = talker
    stage = Stage(backend, options)
    ask(stage, 1, "What is the capital of France?", max_tokens=8)
    for key in (2, 3, 4):
        ask(
            stage,
            key,
            "Describe a cat as JSON.",
            schema=json.dumps(REPORT),
            sampling=Sampling(temperature=0.3 * (key - 2), seed=key),
        )
    ask(stage, 5, "What is the capital of France?", max_tokens=8)
    stage.play()
    for key in (2, 3, 4):
        assert check(stage, key, REPORT), stage.text(key)
    assert stage.text(1) == stage.text(5) != ""


def test_json_mode_gives_an_object_and_a_cut_one_is_told_by_its_length(talker):
    backend, options = talker
    stage = Stage(backend, options)
    ask(stage, 1, "List a name and an age as JSON.", json_mode=True)
    ask(stage, 2, "List a name and an age as JSON.", json_mode=True, max_tokens=4)
    stage.play()
    if stage.end(1).finish == "stop":
        assert isinstance(json.loads(stage.text(1)), dict)
    assert stage.text(2).startswith("{")
    assert stage.end(2).finish == "length"


def test_one_of_the_choices_is_the_answer_and_nothing_else(talker):
    backend, options = talker
    stage = Stage(backend, options)
    choices = ("door open", "door shut", "no door, 東京")
    for key in range(4):
        ask(
            stage,
            key,
            "Is the door open?",
            choices=choices,
            sampling=Sampling(temperature=float(key), seed=key),
        )
    stage.play()
    for key in range(4):
        assert stage.text(key) in choices
        assert stage.end(key).finish == "stop"


def test_penalties_do_not_break_the_form(talker):
    backend, options = talker
    stage = Stage(backend, options)
    sampling = Sampling(
        temperature=1.0, seed=5, presence_penalty=2.0, frequency_penalty=2.0, repeat_penalty=1.5
    )
    ask(stage, 1, "Describe a cat as JSON.", schema=json.dumps(REPORT), sampling=sampling)
    stage.play()
    assert check(stage, 1, REPORT)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"schema": '{"type": "object", "properties": {"a": {"not": {}}}}'}, "schema.properties.a.not"),
        ({"schema": "{"}, "not JSON"),
        ({"tools": (Tool(name="t", parameters="["),)}, "t"),
    ],
)
def test_a_form_that_cannot_be_kept_is_refused_and_costs_the_others_nothing(talker, fields, word):
    backend, options = talker
    stage = Stage(backend, options)
    ask(stage, 1, "What is the capital of France?", max_tokens=4)
    stage.turn()
    ask(stage, 2, "Hi", **fields)
    stage.play()
    end = stage.end(2)
    assert isinstance(end, Rejected)
    assert end.code == "bad_request"
    assert word in end.message
    assert isinstance(stage.end(1), Done)


def test_a_model_that_must_call_a_tool_does_and_reads_what_came_of_it(talker):
    backend, options = talker
    stage = Stage(backend, options)
    ask(
        stage,
        1,
        "How is the weather in Turin for 3 days in celsius?",
        tools=(WEATHER,),
        tool_choice="get_weather",
        parallel_tool_calls=False,
    )
    stage.play()
    (call,) = calls(stage, 1)
    assert stage.text(1) == ""
    assert stage.end(1).finish == "tool_calls"
    arguments = json.loads(call.arguments)
    jsonschema.validate(arguments, json.loads(WEATHER.parameters))
    turns = (
        *says("How is the weather in Turin?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="sunny, 25 degrees", tool_call_id=call.id),
    )
    stage.start(2, messages=turns, tools=(WEATHER,), tool_choice="none", max_tokens=8)
    stage.play()
    assert stage.text(2)


def test_calls_in_the_form_of_functions_round_trip(caller):
    backend, options = caller
    # Without free text: a model of random weights would never close it.
    schema = json.loads(WEATHER.parameters)
    del schema["properties"]["city"]
    schema["required"].remove("city")
    tool = Tool(name="get_weather", parameters=json.dumps(schema))
    stage = Stage(backend, options)
    for key in range(4):
        sampling = Sampling(temperature=1.0, seed=key)
        ask(stage, key, "Weather?", tools=(tool,), tool_choice="required", sampling=sampling)
    stage.play()
    for key in range(4):
        found = calls(stage, key)
        if stage.end(key).finish == "length":  # cut in the last one
            found = found[:-1]
        assert found
        for call in found:
            jsonschema.validate(json.loads(call.arguments), schema)
        turn = Message(role="assistant", content="", tool_calls=tuple(found))
        prompt = backend.render((*says("Weather?"), turn), thinking=False, tools=(tool,))
        text = b"".join(map(backend.piece, prompt)).decode("utf-8", "replace")
        for call in found:
            arguments = json.loads(call.arguments)
            assert f"<parameter=unit>\n{arguments['unit']}\n</parameter>\n" in text
            assert f"<parameter=days>\n{arguments['days']}\n</parameter>\n" in text


@pytest.mark.parametrize(
    "form", [{"schema": '{"type": "integer", "minimum": 0, "maximum": 99}'}, {"choices": ("yes", "no")}]
)
def test_the_form_is_in_force_behind_the_thought_and_the_budget_ends_it(caller, form):
    backend, options = caller
    stage = Stage(backend, options)
    ask(stage, 1, "Hm?", thinking=True, thinking_budget=12, **form)
    stage.play()
    assert channel(stage, 1, "reasoning").endswith("based on the thinking directly now.")
    answer = channel(stage, 1, "text")
    assert answer in form["choices"] if "choices" in form else 0 <= int(answer) <= 99
    assert stage.end(1).finish == "stop"


def test_the_scripted_engine_keeps_a_form_too():
    options = EngineOptions(context=512, slots=2, ubatch=64, threads=1)
    stage = Stage(FakeBackend(Script(answer="Sure! Here it is."), options), options)
    ask(stage, 1, "?", schema=json.dumps(REPORT))
    ask(stage, 2, "?", choices=("yes", "no"))
    ask(stage, 3, "?", tools=(WEATHER,), tool_choice="required", parallel_tool_calls=False)
    stage.play()
    assert check(stage, 1, REPORT)
    assert stage.text(2) in {"yes", "no"}
    assert stage.end(3).finish == "tool_calls"


@pytest.mark.parametrize(
    ("begun", "least"),
    [
        ('<tool_call>\n{"name": "get_weather", "arguments": oops', {}),
        ("<tool_call>\n<function=get_weather>\n<parameter=city>Turin</parameter>oops", {"city": "Turin"}),
    ],
)
def test_a_call_that_was_begun_freely_comes_to_its_end_as_a_call(begun, least):
    options = EngineOptions(context=512, slots=1, ubatch=64, threads=1)
    stage = Stage(FakeBackend(Script(answer=begun), options), options)
    ask(stage, 1, "?", tools=(WEATHER,))
    stage.play()
    (call,) = calls(stage, 1)
    assert call.name == "get_weather"
    assert json.loads(call.arguments).items() >= least.items()
    assert (stage.text(1), stage.end(1).finish) == ("", "tool_calls")
