"""A real model in a real worker: answers are right, batching is invisible, faults stay small."""

from __future__ import annotations

import asyncio

import pytest

from edged.api.events import Finished
from edged.api.requests import Message, Request, Sampling
from tests.kit.model import smollm2, smollm2_tree
from tests.kit.service import running_service, until

pytestmark = pytest.mark.model

# Greedy answers to these have no near-tie in the first tokens, so that the order of additions in a batch
# (which differs from that of a lone sequence in the last bits) cannot show.
QUESTIONS = (
    "What is the capital of France?",
    "What is the capital of Germany?",
    "What colour is the sky?",
    "How many days are in a week?",
    "What is the opposite of hot?",
    "Name a fruit that is yellow.",
    "What do bees make?",
    "What is frozen water called?",
)


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 150))


def test_eight_clients_at_once_each_get_the_answer_they_get_alone(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            alone = [(await box.ask(question, max_tokens=16)).text for question in QUESTIONS]
            together = await asyncio.gather(
                *(box.ask(question, max_tokens=16, client=f"c{n}") for n, question in enumerate(QUESTIONS))
            )
            assert [last.text for last in together] == alone
            assert "Paris" in alone[0]
            assert len(set(alone)) == len(alone)

    run(scenario())


def test_the_same_seed_draws_the_same_text_and_another_seed_another(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            texts = [
                (
                    await box.ask(
                        "Tell a story.", max_tokens=24, sampling=Sampling(temperature=1.0, seed=seed)
                    )
                ).text
                for seed in (7, 7, 8)
            ]
            assert texts[0] == texts[1] != texts[2]

    run(scenario())


def test_a_raw_prompt_is_completed_and_a_stop_string_ends_it(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            request = Request(
                id="g",
                client="test",
                op="generate",
                prompt="The capital of France is",
                sampling=Sampling(temperature=0.0),
                max_tokens=8,
                stop=(".",),
            )
            last = (await box.events(request))[-1]
            assert isinstance(last, Finished)
            assert last.text.strip() == "Paris"
            assert last.finish == "stop"

    run(scenario())


def test_a_long_prompt_is_read_in_steps_while_a_short_one_is_answered(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            await box.ready()
            order: list[str] = []

            async def ask(name: str, text: str) -> None:
                last = await box.ask(text, client=name, max_tokens=4)
                assert isinstance(last, Finished), last
                order.append(name)

            await asyncio.gather(ask("long", "word " * 900), ask("short", "What is the capital of France?"))
            assert order == ["short", "long"]

    run(scenario())


def test_the_conversation_so_far_is_part_of_the_prompt(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            turns = (
                Message(role="user", content="The password is banana."),
                Message(role="assistant", content="OK."),
                Message(role="user", content="What is the password?"),
            )
            request = Request(
                id="t", client="test", op="chat", messages=turns, sampling=Sampling(temperature=0.0)
            )
            assert "banana" in (await box.events(request))[-1].text

    run(scenario())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda whole: whole[: len(whole) // 2], "corrupted or incomplete"),
        (lambda _whole: bytes(range(256)) * 4096, "invalid magic"),
        (lambda whole: whole[:2000] + b"\xff" * 4000 + whole[6000:], ""),
        (lambda _whole: b"", "failed to read magic"),
    ],
    ids=["truncated", "no model", "damaged header", "empty"],
)
def test_a_corrupt_file_is_refused_with_the_reason_of_the_engine(tmp_path, damage, reason):
    model = tmp_path / "damaged.gguf"
    model.write_bytes(damage(smollm2().read_bytes()))

    async def scenario():
        async with running_service(smollm2_tree(model={"path": str(model)}), tmp_path) as box:
            await until(lambda: box.service.status().conditions, "the condition")
            (condition,) = box.service.status().conditions
            assert condition.code == "engine_failed"
            assert "damaged.gguf: " in condition.message
            assert reason in condition.message
            assert "does not say why" not in condition.message
            model.write_bytes(smollm2().read_bytes())
            assert "Paris" in (await box.ask(QUESTIONS[0], max_tokens=16)).text

    run(scenario())
