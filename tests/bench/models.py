"""The model files that are measured, and texts of an exact number of their tokens."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as library
import msgspec

from edgectl.models.replica import replica
from edgectl.models.replica_plan import plan_replica
from edgectl.planning.catalog import load_catalog
from tests.kit.model import smollm2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgectl.models.replica_plan import ReplicaPlan

SMOLLM2 = "SmolLM2-135M Q4_1"
REPLICA = "Qwen3.5-0.8B Q4_K_M replica"
QUESTION_TOKENS = 26
QUICK_LAYERS = 4  # one of them attends, as one of four does in the whole model

# As Qwen3.5's own: a thought, here empty, belongs to the turn that is being answered and leaves history.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


class Model:
    """A file with its tokenizer. ``path`` is the file, ``name`` for people."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        library.llama_log_set(_silence, None)
        params = library.llama_model_default_params()
        params.vocab_only = True
        self._model = library.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise SystemExit(f"{path} cannot be read")
        self._vocab = library.llama_model_get_vocab(self._model)

    def tokens(self, text: str) -> list[int]:
        """Without a beginning-of-sequence token; special tokens are known by their names."""
        data = text.encode()
        buffer = (library.llama_token * (len(data) + 8))()
        count = library.llama_tokenize(self._vocab, data, len(data), buffer, len(buffer), False, True)  # noqa: FBT003 - a C function
        return list(buffer[:count])

    def text(self, tokens: int, seed: int) -> str:
        """Sentences of that many tokens, at most one word less; another seed differs from its first word."""
        rng = random.Random(seed)
        words = f"Site {rng.randrange(10**6)}.".split()
        while len(self.tokens(" ".join(words))) < tokens:
            words += _sentence(rng).split()
        while len(self.tokens(" ".join(words))) > tokens:
            words.pop()
        return " ".join(words)

    def question(self, number: int) -> str:
        """A short one, different for every ``number``; SmolLM2 answers it at length."""
        topic = TOPICS[number % len(TOPICS)]
        words = f"Write a long story in many sentences about {topic}, with the number {number} in it."
        short = len(self.tokens(words)) <= QUESTION_TOKENS
        return words if short else self.text(QUESTION_TOKENS, number)

    def close(self) -> None:
        library.llama_model_free(self._model)


@contextlib.contextmanager
def smollm2_model() -> Iterator[Model]:
    """The real one; its answers have a meaning, and may end early."""
    with contextlib.closing(Model(SMOLLM2, str(smollm2()))) as model:
        yield model


@contextlib.contextmanager
def replica_model(folder: Path, *, quick: bool = False) -> Iterator[Model]:
    """The weightless Qwen3.5-0.8B with the turns of the real chat template; its answers never end."""
    plan = replica_plan(layers=QUICK_LAYERS if quick else None)
    with replica(plan, folder) as path, contextlib.closing(_replica(path, quick=quick)) as model:
        yield model


def _replica(path: Path, *, quick: bool) -> Model:
    return Model(f"{REPLICA}, {QUICK_LAYERS} layers" if quick else REPLICA, str(path))


def replica_plan(layers: int | None = None) -> ReplicaPlan:
    entry, file = load_catalog().find("qwen3.5-0.8b:Q4_K_M")
    plan = plan_replica(
        entry.arch, entry.geometry, file.quant, context_tokens=entry.context_max_tokens, layers=layers
    )
    return msgspec.structs.replace(plan, metadata={**plan.metadata, "tokenizer.chat_template": CHAT_TEMPLATE})


SUBJECTS = [
    "the sensor",
    "the camera",
    "the pump",
    "the door",
    "the meter",
    "the lamp",
    "the fan",
    "the lock",
]
PLACES = [
    "kitchen",
    "hall",
    "cellar",
    "workshop",
    "garage",
    "greenhouse",
    "laboratory",
    "attic",
    "garden",
    "yard",
]
DOINGS = (
    "reports every thirty seconds",
    "is checked on Mondays",
    "was replaced last spring",
    "fails in heavy rain",
    "belongs to the night shift",
    "has a battery for two years",
    "sends one value at a time",
)
TOPICS = [
    "the sea",
    "old bridges",
    "bread",
    "winter storms",
    "a lighthouse",
    "bees",
    "railways",
    "the moon",
    "a long journey",
    "mountain rivers",
    "glass",
    "paper",
    "forest fires",
    "whales",
    "clocks",
    "volcanoes",
    "a village",
    "deserts",
    "the weather",
    "ships",
    "gardens",
    "books",
    "horses",
    "coffee",
]


def _sentence(rng: random.Random) -> str:
    what, where = rng.choice(SUBJECTS).capitalize(), rng.choice(PLACES)
    return f"{what} in the {where} {rng.choice(DOINGS)}, number {rng.randrange(1000)}."


@library.llama_log_callback
def _silence(_level: int, _text: bytes, _user_data: object) -> None: ...
