"""At temperature 0 a request gets the tokens it gets alone, whatever else the box does meanwhile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from edged.ipc.messages import EngineOptions
from tests.kit.decoding import Drawn, Stage, Watched, alone, watched
from tests.kit.model import gemma3, smollm2
from tests.kit.random_model import random_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.model

REQUESTS = 16
UBATCH = 64
# In a batch the same sums are made in another order, which moves logits by up to some hundredths. Where
# the two best tokens are closer than this either may win, and what follows is another text.
NEAR_TIE = 0.05

SYSTEMS = (
    (
        "You are the voice of a small box beside a machine. Answer in one short sentence, in plain words, "
        "and say only what the readings show. If a value is out of range, name it first."
    ),
    "You translate what a sensor says into a line for the log of the night shift.",
    "",
)
WORDS = (
    "pump valve door belt motor fan water oil heat noise level high low open shut left right two five nine"
)


class Job(Struct, frozen=True):
    """One request: it arrives before a turn, and some are called off before another."""

    prompt: str
    max_tokens: int
    arrives: int
    cancelled: int | None = None


def jobs(seed: int) -> list[Job]:
    """Sixteen with mixed lengths; ten share one of two prefixes, four come late, three are called off."""
    dice = random.Random(seed)
    made = []
    for number in range(REQUESTS):
        system = SYSTEMS[0 if number % 3 == 0 else 1 if number % 3 == 1 else 2]
        reading = " ".join(dice.choice(WORDS.split()) for _ in range(dice.choice((3, 10, 25, 90))))
        arrives = dice.randint(3, 25) if number % 4 == 3 else 0
        cancelled = arrives + dice.randint(1, 14) if number % 5 == 4 else None
        prompt = f"{system} Reading {number}: {reading}. Report:"
        made.append(Job(prompt, dice.randint(6, 20), arrives, cancelled))
    return made


def play(stage: Stage, work: list[Job]) -> None:
    turn = 0
    left = dict(enumerate(work))
    while left or not stage.idle:
        for key, job in list(left.items()):
            if job.arrives == turn:
                stage.start(key, op="generate", prompt=job.prompt, max_tokens=job.max_tokens)
            if job.cancelled == turn:
                stage.cancel(key)
            if turn >= max(job.arrives, job.cancelled or 0):
                del left[key]
        stage.turn()
        turn += 1


def tokens(drawn: list[Drawn]) -> list[int]:
    return [item.token for item in drawn]


def same_but_for_near_ties(said: list[Drawn], lone: list[Drawn]) -> str:
    """ "" when ``said`` begins as ``lone`` does; else how near the tie was where they part. Fails on no tie."""
    for index, (ours, theirs) in enumerate(zip(said, lone, strict=False)):
        if ours.token != theirs.token:
            gap = min(ours.gap, theirs.gap)
            assert gap < NEAR_TIE, (
                f"token {index} is {ours.token} (ahead by {ours.gap:.3f}), alone {theirs.token} "
                f"(ahead by {theirs.gap:.3f}): no near-tie"
            )
            return f"token {index} of {len(lone)} differs: {ours.token} for {theirs.token}, {gap:.4f} apart"
    return ""


def load(name: str, folder: Path, slots: int) -> tuple[Watched, EngineOptions]:
    """A model with as many slots; the vocabulary of a random one has few words, so its prompts are longer."""
    path = {"smollm2": smollm2, "gemma3": gemma3}.get(name, lambda: random_model(folder, name))()
    context = 384 if path.parent != folder else 1024
    options = EngineOptions(context=context, slots=slots, ubatch=UBATCH, threads=2, repack=False)
    return watched(path, options), options


@pytest.mark.parametrize(("name", "slots"), [("smollm2", 16), ("gemma3", 16), ("qwen35", 16), ("qwen35", 3)])
def test_sixteen_requests_at_once_each_get_the_tokens_they_get_alone(tmp_path, name, slots, record_property):
    backend, options = load(name, tmp_path, slots)
    work = jobs(seed=slots)
    prompts = [backend.tokenize(job.prompt) for job in work]
    lone = [
        alone(backend, prompt, job.max_tokens, chunk=UBATCH)
        for prompt, job in zip(prompts, work, strict=True)
    ]
    stage = Stage(backend, options)
    play(stage, work)

    ties = []
    for key, job in enumerate(work):
        said = backend.drawn.get(tuple(prompts[key]), [])
        end = stage.end(key)
        if job.cancelled is None or not hasattr(end, "code"):
            assert end.usage.prompt_tokens == len(prompts[key])
            assert end.usage.completion_tokens == len(said)
        tie = same_but_for_near_ties(said, lone[key])
        if tie:
            ties.append(f"request {key}: {tie}")
        elif not hasattr(end, "code"):
            assert tokens(said) == tokens(lone[key])
        else:
            assert end.code == "cancelled"
            assert tokens(said) == tokens(lone[key])[: len(said)]
    for tie in ties:
        print(tie)
    record_property("near_ties", "; ".join(ties) or "none")
    assert len(ties) <= REQUESTS // 4
    assert len({tuple(tokens(drawn)) for drawn in lone}) > REQUESTS // 2
    backend.close()
