"""Real engines share what prompts have in common, and answer as if each had read all of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edged.api.requests import Message
from edged.ipc.messages import EngineOptions
from edged.worker.prefixes import common_tokens, key_of
from tests.kit.decoding import Stage, Watched, alone, watched
from tests.kit.model import smollm2
from tests.kit.random_model import THINKING_TEMPLATE, random_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.model

OPTIONS = EngineOptions(context=2048, slots=4, ubatch=64, threads=2, repack=False)
CACHE = 256 << 20
# In a batch the same sums are made in another order: where the two best tokens are closer than this in their
# logits either may win.
NEAR_TIE = 0.25
SYSTEM = (
    "You are the voice of a small box beside a machine. Answer in one short sentence and in plain words. "
    "Say only what the readings show, and never guess. If a value is out of range, name it first, then "
    "the part of the machine that it belongs to, then who should be told about it and how soon."
)
QUESTIONS = (
    "What is the capital of France, and which river flows through it?",
    "Name three fruits that are yellow, and one that is not.",
    "How many days are in a week, and which of them is the first?",
    "What do bees make, and what do they make it from?",
)


def thinking_hybrid(folder: Path) -> Path:
    return random_model(folder, template=THINKING_TEMPLATE)


MODELS = [pytest.param(lambda _folder: smollm2(), id="smollm2"), pytest.param(thinking_hybrid, id="hybrid")]


@pytest.fixture(scope="module", params=MODELS)
def backend(request, tmp_path_factory):
    loaded = watched(request.param(tmp_path_factory.mktemp("model")), OPTIONS)
    yield loaded
    loaded.close()


def conversation(*texts: str) -> tuple[Message, ...]:
    """The system message, then questions and answers in turn."""
    roles = ("user", "assistant")
    said = [Message(role=roles[number % 2], content=text) for number, text in enumerate(texts)]
    return (Message(role="system", content=SYSTEM), *said)


def same_but_for_near_ties(backend: Watched, prompt: list[int]) -> None:
    """What was drawn after ``prompt`` is what is drawn when nothing is shared."""
    said = backend.drawn.pop(tuple(prompt))
    lone = alone(backend, prompt, len(said), chunk=OPTIONS.ubatch)
    for ours, theirs in zip(said, lone, strict=False):
        if ours.token != theirs.token:
            assert min(ours.gap, theirs.gap) < NEAR_TIE
            return


def test_four_at_once_read_the_system_message_once_and_say_what_each_says_alone(backend):
    stage = Stage(backend, OPTIONS, cache_bytes=CACHE)
    prompts = [backend.render(conversation(question), thinking=False) for question in QUESTIONS]
    for key, question in enumerate(QUESTIONS):
        stage.start(key, messages=conversation(question), max_tokens=12)
    stage.play()
    shared = min(common_tokens(key_of(prompts[0]), key_of(prompt)) for prompt in prompts)
    first, *others = sorted(stage.end(key).usage.cached_tokens for key in range(len(QUESTIONS)))
    assert first == 0
    assert min(others) >= shared - 1 > 40
    for prompt in prompts:
        same_but_for_near_ties(backend, prompt)


def test_ten_turns_of_a_conversation_read_only_what_is_new_and_answer_as_if_all_was_read(backend):
    stage = Stage(backend, OPTIONS, cache_bytes=CACHE)
    said: tuple[str, ...] = ()
    before = 0
    for turn in range(10):
        question = f"{turn + 1}. {QUESTIONS[turn % len(QUESTIONS)]}"
        messages = conversation(*said, question)
        prompt = backend.render(messages, thinking=False)
        stage.start(turn, messages=messages, max_tokens=24)
        stage.play()
        usage = stage.end(turn).usage
        # All that the turn before had read, but for the marks where an answer begins.
        if turn > 1:
            assert usage.cached_tokens >= before - 12
        if turn % 3 == 2:
            same_but_for_near_ties(backend, prompt)
        before = usage.prompt_tokens
        said += (question, stage.text(turn))
    assert before > 400


def test_a_conversation_goes_on_after_the_cache_was_shrunk_to_nothing(backend):
    stage = Stage(backend, OPTIONS, cache_bytes=CACHE)
    stage.start(1, messages=conversation(QUESTIONS[0]), max_tokens=8)
    stage.play()
    stage.shrink(0)
    messages = conversation(QUESTIONS[0], stage.text(1), QUESTIONS[1])
    stage.start(2, messages=messages, max_tokens=8)
    stage.play()
    assert stage.end(2).usage.cached_tokens == 0
    same_but_for_near_ties(backend, backend.render(messages, thinking=False))
