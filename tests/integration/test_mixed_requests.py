"""Whatever requests of all kinds do to each other's slots, each ends once, and with what it says alone."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from llama_cpp import llama_cpp as api
from msgspec import Struct, structs

from edged.api.requests import Message
from edged.ipc.messages import Done, EngineOptions, Rejected
from edged.worker.speculate import NOTHING
from tests.kit.decoding import Drawn, Stage, Watched, behind, tokens, watched
from tests.kit.random_model import random_model

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.model

OPTIONS = EngineOptions(context=384, slots=3, ubatch=32, threads=2, repack=False)
CACHE = 8 << 20
REQUESTS = 14
# See test_engine_correctness.py and test_classify.py.
NEAR_TIE, SCORE_TOLERANCE = 0.15, 0.03
SYSTEMS = (
    "You are the voice of a small box in a hall where nobody stands. Say only what the readings show.",
    "You translate what a sensor says into one line for the log of the night shift, and never guess.",
)
WORDS = "pump valve door belt motor fan water oil heat noise level high low open shut left right two five"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"part": {"enum": ["pump", "fan", "belt"]}, "bar": {"type": "integer"}},
        "required": ["part", "bar"],
    }
)
ARCHITECTURES = {"hybrid": "qwen35", "window": "gemma3", "llama": "llama"}
KINDS = ("chat", "classify", "schema", "brim", "generate", "chat", "beyond")


class Act(Struct, frozen=True):
    """What happens before a turn; ``value`` is a request, or the bytes of the cache."""

    turn: int
    name: str
    value: int


class Play(Struct, frozen=True):
    """The fields and prompts of requests, and what happens to them."""

    fields: list[dict[str, Any]]
    prompts: list[list[int]]
    acts: list[Act]


def raw(backend: Watched, opening: str, count: int) -> str:
    """A raw prompt of so many tokens that begins as ``opening``."""
    text = opening
    while len(backend.tokenize(text)) < count:
        text += WORDS[len(text) % len(WORDS)]
    assert len(backend.tokenize(text)) == count
    return text


def request(backend: Watched, dice: random.Random, kind: str, number: int) -> dict[str, Any]:
    reading = " ".join(dice.choices(WORDS.split(), k=dice.choice((2, 8, 25))))
    text = f"{number}: {reading}"
    fields: dict[str, Any] = {"op": "generate", "max_tokens": dice.randint(4, 40)}
    if kind in {"brim", "beyond"}:
        return {**fields, "prompt": raw(backend, text, OPTIONS.context - (kind == "brim"))}
    if kind == "generate":
        return {**fields, "prompt": text}
    said = [Message(role="system", content=dice.choice(SYSTEMS)), Message(role="user", content=text)]
    fields |= {"op": "chat", "messages": tuple(said)}
    if kind == "classify":
        rule = dice.choice(("constrained", "sum", "mean"))
        return {
            **fields,
            "op": "classify",
            "choices": ("warm", "worn", "wet and cold", "wet"),
            "scoring": rule,
        }
    return {**fields, "schema": SCHEMA, "max_tokens": 60} if kind == "schema" else fields


def play_of(backend: Watched, seed: int) -> Play:
    """Requests come in bursts; some are called off, some wait for their reader, and memory gets short."""
    dice = random.Random(seed)
    kinds = dice.sample(KINDS * 2, REQUESTS)
    fields = [request(backend, dice, kind, number) for number, kind in enumerate(kinds)]
    acts = []
    for key in range(REQUESTS):
        arrives = dice.choice((2, 2, 20, 45))
        acts.append(Act(arrives, "start", key))
        if dice.random() < 0.5:
            paused = arrives + dice.randint(4, 25)
            acts += [Act(paused, "pause", key), Act(paused + dice.randint(5, 60), "resume", key)]
        if dice.random() < 0.2:
            acts.append(Act(arrives + dice.randint(1, 30), "cancel", key))
    short = dice.randint(10, 40)
    acts += [Act(short, "shrink", 0), Act(short + 10, "shrink", CACHE)]
    prompts = [
        backend.render(one["messages"], thinking=False)
        if "messages" in one
        else backend.tokenize(one["prompt"])
        for one in fields
    ]
    return Play(fields, prompts, sorted(acts, key=lambda act: act.turn))


def perform(stage: Stage, play: Play) -> Counter[str]:
    """Play it to its end; how often what is to be seen was seen."""
    acts, seen, turn = list(play.acts), Counter[str](), 0
    while acts or not stage.idle:
        while acts and acts[0].turn <= turn:
            act = acts.pop(0)
            if act.name == "start":
                stage.start(act.value, **play.fields[act.value])
            else:
                getattr(stage, act.name)(act.value)
        stage.turn()
        turn += 1
        seen["lent"] += bool(stage.loop._slots.parked)
        seen["warmed"] += stage.loop._warming._position > 0
        assert turn < 10_000
    return seen


def alone(backend: Watched, fields: dict[str, Any], prompt: Sequence[int]) -> tuple[list[Drawn], Any]:
    """What is drawn, and the end, when there is no other request and no cache."""
    stage = Stage(backend, OPTIONS)
    stage.start(0, **fields)
    stage.play()
    return backend.drawn.pop(tuple(prompt), []), stage.end(0)


def parting(
    backend: Watched, prompt: Sequence[int], ours: list[int], theirs: list[int], *, formed: bool
) -> float:
    """How far what was said is behind the best that could be; of a formed answer up to where it parts."""
    if not formed:
        return max(behind(backend, prompt, ours, chunk=OPTIONS.ubatch))
    at = next(n for n, token in enumerate(ours) if token != theirs[n])
    ways = [
        behind(backend, prompt, [*ours[:at], token], chunk=OPTIONS.ubatch)[at]
        for token in (ours[at], theirs[at])
    ]
    return ways[0] - ways[1]


@pytest.fixture(scope="module", params=["hybrid", "hybrid drafts", "window", "window q8_0", "llama drafts"])
def backend(request, tmp_path_factory):
    name, _, how = request.param.partition(" ")
    options = structs.replace(
        OPTIONS,
        speculate="on" if how == "drafts" else "off",
        kv_type="q8_0" if how == "q8_0" else "f16",
    )
    loaded = watched(random_model(tmp_path_factory.mktemp("model"), ARCHITECTURES[name]), options)
    assert (loaded.draft_tokens > 0) == (how == "drafts")
    yield loaded
    loaded.close()


@pytest.mark.parametrize("seed", range(3))
def test_no_mix_of_requests_fails_another_or_changes_what_it_says(backend, seed):
    play = play_of(backend, seed)
    cancelled = {act.value for act in play.acts if act.name == "cancel"}
    cost = NOTHING if backend.draft_tokens else None
    stage = Stage(backend, OPTIONS, cache_bytes=CACHE, systems=SYSTEMS[:1], cost=cost)
    seen = perform(stage, play)
    stage.play()  # every slot is free
    for seq in range(OPTIONS.slots):
        assert api.llama_memory_seq_pos_max(backend._memory, seq) == -1
    drawn = [backend.drawn.pop(tuple(prompt), []) for prompt in play.prompts]

    ends: Counter[str] = Counter()
    ties = 0
    for key, (fields, prompt, said) in enumerate(zip(play.fields, play.prompts, drawn, strict=True)):
        end, (lone, lone_end) = stage.end(key), alone(backend, fields, prompt)
        if isinstance(end, Rejected) and end.code == "cancelled":
            ends["cancelled"] += 1
            assert key in cancelled
        elif isinstance(end, Rejected):
            ends[end.code] += 1
            assert isinstance(lone_end, Rejected)
            assert lone_end.code == end.code == "too_large"
            assert len(prompt) == OPTIONS.context
        else:
            ends[end.finish] += 1
            assert isinstance(lone_end, Done)
            for ours, theirs in zip(end.scores, lone_end.scores, strict=True):
                assert ours.probability == pytest.approx(theirs.probability, abs=SCORE_TOLERANCE)
        if tokens(said) != tokens(lone)[: len(said)]:
            ties += 1
            assert parting(backend, prompt, tokens(said), tokens(lone), formed="schema" in fields) < NEAR_TIE
        elif isinstance(end, Done):
            assert len(said) == len(lone)
    assert ends.total() == REQUESTS
    assert ties <= 2
    assert seen["lent"] > 0
    assert seen["warmed"] > 0
