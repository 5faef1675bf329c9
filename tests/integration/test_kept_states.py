"""What one worker has kept on disk of a prompt another one goes on from, as if it had read it itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from edged.ipc.messages import EngineOptions, Keep
from edged.worker.kept import SUFFIX, KeptPrefixes
from edged.worker.prefixes import key_of
from tests.kit.decoding import Stage, Watched, alone, asked, behind, prefill, tokens, watched
from tests.kit.model import gemma3, smollm2
from tests.kit.random_model import random_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.model

OPTIONS = EngineOptions(context=512, slots=2, ubatch=64, threads=2, repack=False)
CACHE = 128 << 20
# By how much a likely logit may move: the sums of what is read after the prefix are made in another order.
# gemma's move by 0.2 here.
TOLERANCES = {"gemma3": 0.5}
TOLERANCE = 0.15
LIKELIEST = 16
SYSTEM = (
    "You watch a pump in a hall where nobody stands all day. Say in one short sentence how it does, or which "
    "part of it needs a person. Name a value only when it is out of range, and never guess at a cause; if "
    "the readings are those of yesterday, say that nothing has changed, and nothing else."
)
QUESTIONS = ("Oil 3.1 bar, 61 degrees.", "Valve two is open.", "The belt slips at noon.", "Fan left: loud.")
MODELS: dict[str, Callable[[Path], Path]] = {
    "smollm2": lambda _folder: smollm2(),
    "gemma3": lambda _folder: gemma3(),
    "hybrid": random_model,
    "window": lambda folder: random_model(folder, "gemma3"),
}


def kept_in(folder: Path) -> KeptPrefixes:
    return KeptPrefixes(Keep(folder=str(folder), key="this engine and model", most=4))


def ask(stage: Stage, backend: Watched, key: int) -> tuple[list[int], int]:
    """Ask the question of that number; the tokens of the prompt, and how many of them came from the cache."""
    fields, prompt = asked(backend, SYSTEM, QUESTIONS[key])
    stage.start(key, max_tokens=12, **fields)
    stage.play()
    return prompt, stage.end(key).usage.cached_tokens


def written(model: Path, options: EngineOptions, folder: Path) -> int:
    """A worker that answers three questions and leaves; how many tokens the last prompt found kept."""
    backend, kept = watched(model, options), kept_in(folder)
    stage = Stage(backend, options, cache_bytes=CACHE, kept=kept)
    cached = [ask(stage, backend, key)[1] for key in range(3)][-1]
    kept.wait()
    backend.close()
    return cached


@pytest.mark.parametrize(
    ("name", "kv_type"),
    [*((name, "f16") for name in MODELS), ("smollm2", "q8_0"), ("hybrid", "q8_0"), ("window", "q8_0")],
)
def test_a_new_worker_goes_on_from_what_is_on_disk_and_answers_as_if_it_had_read_all(tmp_path, name, kv_type):
    model = MODELS[name](tmp_path)
    options = structs.replace(OPTIONS, kv_type=kv_type)
    folder = tmp_path / "kept"
    shared = written(model, options, folder)
    assert shared > 40

    backend, kept = watched(model, options), kept_in(folder)
    (prefix,) = kept.read(CACHE)
    _, prompt = asked(backend, SYSTEM, QUESTIONS[3])
    assert key_of(prompt).startswith(prefix.key)
    assert prefix.length == shared
    fresh = backend.logits(prefill(backend, 0, prompt, chunk=options.ubatch))
    backend.forget(0)
    backend.restore(1, prefix.state, prefix.length)
    gone_on = backend.logits(
        prefill(backend, 1, prompt[prefix.length :], prefix.length, chunk=options.ubatch)
    )
    backend.forget(1)
    tolerance = TOLERANCES.get(name, TOLERANCE)
    likeliest = fresh.argpartition(-LIKELIEST)[-LIKELIEST:]
    assert abs(fresh - gone_on)[likeliest].max() < tolerance

    stage = Stage(backend, options, cache_bytes=CACHE, kept=kept)
    stage.loop._sharing.load(stage.loop._slots.free[-1])
    assert ask(stage, backend, 3) == (prompt, shared)
    said = tokens(backend.drawn.pop(tuple(prompt)))
    assert len(said) > 4
    if said != tokens(alone(backend, prompt, 12, chunk=options.ubatch)):
        assert max(behind(backend, prompt, said, chunk=options.ubatch)) < tolerance
    backend.close()


@pytest.mark.parametrize("name", ["hybrid", "window"])
def test_what_an_engine_with_another_cache_has_kept_is_refused_and_read_anew(tmp_path, name):
    model, folder = MODELS[name](tmp_path), tmp_path / "kept"
    written(model, OPTIONS, folder)
    assert list(folder.glob(f"*{SUFFIX}"))
    options = structs.replace(OPTIONS, kv_type="q8_0")
    backend = watched(model, options)
    stage = Stage(backend, options, cache_bytes=CACHE, kept=kept_in(folder))
    stage.loop._sharing.load(stage.loop._slots.free[-1])
    assert not list(folder.glob(f"*{SUFFIX}"))
    prompt, cached = ask(stage, backend, 3)
    assert cached == 0
    said = tokens(backend.drawn.pop(tuple(prompt)))
    assert said == tokens(alone(backend, prompt, 12, chunk=options.ubatch))
    backend.close()
