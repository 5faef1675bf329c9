"""At temperature 0 a request gets the tokens it gets alone, whatever else the box does meanwhile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from edged.ipc.messages import Done, EngineOptions
from edged.worker.backends.base import Run
from tests.kit.decoding import Drawn, Stage, Watched, alone, asked, behind, prefill, tokens, watched
from tests.kit.model import gemma3, smollm2
from tests.kit.random_model import random_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

pytestmark = pytest.mark.model

UBATCH = 64
# In a batch the same sums are made in another order, which moves logits: by some hundredths, or by what
# reading in other chunks moves them. Where the two best tokens are closer than that either may win, and what
# follows is another text.
NEAR_TIE = 0.15
MOST_NOISE = 0.5
LIKELIEST = 16  # gemma's logits of tokens that nobody would draw move by as much as 1
OTHER_CHUNK = 5
RANDOM = {
    "llama": "llama",
    "hybrid": "qwen35",
    "window": "gemma3",
}  # architectures of models with random weights

SYSTEMS = (
    (
        "You are the voice of a small box beside a machine in a hall where nobody stands all day. Answer in "
        "one short sentence, in plain words, and say only what the readings show. If a value is out of "
        "range, name it first, then the part of the machine it belongs to, and then what a person should "
        "look at before anything else. Never guess a cause, and if there is nothing to say, say so."
    ),
    "You translate what a sensor says into a line for the log of the night shift.",
    "",
)
WORDS = "pump valve door belt motor fan water oil heat noise level high low open shut left right two five"


class Job(Struct, frozen=True):
    """One request: it arrives before a turn, and some are called off before another."""

    system: str
    text: str
    max_tokens: int
    arrives: int
    cancelled: int | None = None


def jobs(seed: int, count: int) -> list[Job]:
    """Mixed lengths; of sixteen eleven share one of two beginnings, four come late, three are called off."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        system = SYSTEMS[number % 3]
        reading = " ".join(dice.choice(WORDS.split()) for _ in range(dice.choice((3, 10, 25, 90))))
        arrives = dice.randint(3, 25) if number % 4 == 3 else 0
        cancelled = arrives + dice.randint(1, 14) if number % 5 == 4 else None
        text = f"Reading {number}: {reading}. Report:"
        made.append(Job(system, text, dice.randint(6, 20), arrives, cancelled))
    return made


def play(stage: Stage, work: list[Job], fields: list[dict[str, Any]]) -> None:
    turn = 0
    left = dict(enumerate(work))
    while left or not stage.idle:
        for key, job in list(left.items()):
            if job.arrives == turn:
                stage.start(key, max_tokens=job.max_tokens, **fields[key])
            if job.cancelled == turn:
                stage.cancel(key)
            if turn >= max(job.arrives, job.cancelled or 0):
                del left[key]
        stage.turn()
        turn += 1


def noise(backend: Watched, prompts: Sequence[list[int]]) -> float:
    """By how much a likely logit after the shortest prompts moves when they are read in other chunks."""
    moved = 0.0
    for prompt in sorted(prompts, key=len)[:3]:
        logits = []
        for chunk in (UBATCH, OTHER_CHUNK):
            logits.append(backend.logits(prefill(backend, 0, prompt, chunk=chunk)))
            backend.forget(0)
        likeliest = logits[0].argpartition(-LIKELIEST)[-LIKELIEST:]
        moved = max(moved, float(abs(logits[0] - logits[1])[likeliest].max()))
    return moved


def parting(said: list[Drawn], lone: list[Drawn]) -> str:
    """Where the two part; empty when they do not."""
    for index, (ours, theirs) in enumerate(zip(said, lone, strict=False)):
        if ours.token != theirs.token:
            return (
                f"token {index} of {len(lone)} is {ours.token} (ahead by {ours.gap:.3f}), "
                f"alone {theirs.token} (ahead by {theirs.gap:.3f})"
            )
    return ""


def load(model: str, folder: Path, slots: int, **fields: Any) -> tuple[Watched, EngineOptions]:
    """A model with as many slots; the vocabulary of a random one has few words, so its prompts are longer."""
    name, _, kv_type = model.partition(" ")
    arch = RANDOM.get(name)
    path = random_model(folder, arch) if arch else {"smollm2": smollm2, "gemma3": gemma3}[name]()
    options = EngineOptions(
        context=1024 if arch else 384,
        slots=slots,
        ubatch=UBATCH,
        threads=2,
        repack=False,
        kv_type="q8_0" if kv_type else "f16",
        **fields,
    )
    return watched(path, options), options


@pytest.mark.parametrize(
    ("model", "requests", "slots", "cache_mib"),
    [
        ("smollm2", 16, 16, 64),
        ("smollm2", 8, 3, 64),
        ("smollm2 q8_0", 8, 3, 64),
        ("gemma3", 16, 16, 64),
        ("gemma3", 8, 3, 64),
        ("hybrid", 16, 16, 64),
        ("hybrid", 16, 3, 64),
        ("hybrid", 16, 16, 0),
        ("hybrid q8_0", 16, 3, 64),
        ("window", 16, 16, 64),
        ("window q8_0", 16, 3, 64),
    ],
)
def test_requests_at_once_each_get_the_tokens_they_get_alone(
    tmp_path, model, requests, slots, cache_mib, record_property
):
    backend, options = load(model, tmp_path, slots)
    work = jobs(slots, requests)
    fields, prompts = zip(*(asked(backend, job.system, job.text) for job in work), strict=True)
    lone = [
        alone(backend, prompt, job.max_tokens, chunk=UBATCH)
        for prompt, job in zip(prompts, work, strict=True)
    ]
    moved = noise(backend, prompts)
    assert moved < MOST_NOISE
    limit = max(NEAR_TIE, moved)
    stage = Stage(backend, options, cache_bytes=cache_mib << 20)
    play(stage, work, fields)

    ties, cached = [], 0
    for key, prompt in enumerate(prompts):
        said, end = backend.drawn.pop(tuple(prompt), []), stage.end(key)
        if isinstance(end, Done):
            assert end.usage.prompt_tokens == len(prompt)
            assert end.usage.completion_tokens == len(said)
            cached += end.usage.cached_tokens
        else:
            assert end.code == "cancelled"
        if parted := parting(said, lone[key]):
            # Whatever text it has become, each token of it is the best one there, or nearly.
            gaps = behind(backend, prompt, tokens(said), chunk=UBATCH)
            assert max(gaps) < limit, f"request {key}: {parted}; behind by {gaps}"
            ties.append(f"request {key}: {parted}")
        elif isinstance(end, Done):
            assert tokens(said) == tokens(lone[key])
        else:
            assert tokens(said) == tokens(lone[key])[: len(said)]
    print(f"{len(ties)} near-ties (below {limit:.2f}), {cached} tokens from the cache", *ties, sep="\n")
    record_property("near_ties", "; ".join(ties) or "none")
    assert len(ties) <= requests // 4
    assert bool(cached) == bool(cache_mib)
    assert len({tuple(tokens(drawn)) for drawn in lone}) > requests // 2
    backend.close()


@pytest.mark.parametrize(("model", "tolerance"), [("smollm2", 0.7), ("llama", 0.3)])
def test_attention_in_one_pass_and_by_scores_gives_nearly_the_same_logits(tmp_path, model, tolerance):
    """Which is chosen depends on the shape alone; drafts that are wanted ask for one pass.

    Rounding differs: what it moves is more where weights have four bits, and the same for all tokens in part.
    """
    made: list[list[np.ndarray]] = []
    said: list[int] = []
    for speculate in ("off", "on"):
        backend, _ = load(model, tmp_path, 1, speculate=speculate)
        assert (backend.draft_tokens > 0) == (speculate == "on")
        prompt = asked(backend, SYSTEMS[0], "The pump is warm. Report:")[1]
        said = said or tokens(alone(backend, prompt, 8, chunk=UBATCH))
        rows = [prefill(backend, 0, prompt, chunk=UBATCH)]
        made.append([backend.logits(rows[0])])
        for position, token in enumerate(said, len(prompt)):
            (row,) = backend.step([Run(0, [token], position, output=True)])
            made[-1].append(backend.logits(row))
        backend.close()
    for scores, one_pass in zip(*made, strict=True):
        likeliest = scores.argpartition(-LIKELIEST)[-LIKELIEST:]
        moved = (scores - one_pass)[likeliest]
        assert 0 < abs(moved - moved.mean()).max() < tolerance
