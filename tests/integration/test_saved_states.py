"""What an engine saves of a sequence is the sequence, with attention and with recurrent memory."""

from __future__ import annotations

from mmap import mmap

import pytest
from msgspec import structs

from edged.api.requests import Sampling
from edged.ipc.messages import EngineOptions
from edged.worker.backends.base import Run, StateError
from edged.worker.backends.fake import load_fake
from tests.kit.model import gemma3, smollm2
from tests.kit.random_model import WINDOW_TOKENS, random_model

SLOTS, UBATCH, CONTEXT = 3, 32, 256
OPTIONS = EngineOptions(context=CONTEXT, slots=SLOTS, ubatch=UBATCH, threads=1, repack=False)
GREEDY = Sampling(temperature=0.0)
# The sums of a chunk are made in another order when it begins elsewhere.
TOLERANCE = 0.05
COMPARED = 256
TEXT = "The pump runs warm since noon; oil pressure has been falling slowly, and nobody looked at the valve. "


MODELS = {
    "smollm2": lambda _folder: smollm2(),
    "llama": lambda folder: random_model(folder, "llama"),
    "hybrid": random_model,
    "window": lambda folder: random_model(folder, "gemma3"),
    "gemma3": lambda _folder: gemma3(),
}
KINDS = ("smollm2", "llama q8_0", "hybrid", "hybrid q8_0", "window", "window q8_0", "gemma3")


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        "recurrent fake",
        *(pytest.param(kind, marks=pytest.mark.model) for kind in KINDS),
    ],
)
def backend(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    kind, _, kv_type = request.param.partition(" ")
    if request.param.endswith("fake"):
        script = folder / "echo.fake"
        recurrent = str(request.param != "fake").lower()
        script.write_text(f'recurrent = {recurrent}\nanswer = "{TEXT * 3}"\n')
        loaded = load_fake(str(script), OPTIONS, lambda: None)
    else:
        from edged.worker.backends.llama import load_llama

        options = structs.replace(OPTIONS, kv_type=kv_type or "f16")
        loaded = load_llama(str(MODELS[kind](folder)), options, lambda: None)
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def clean(backend):
    yield
    for seq in range(SLOTS):
        backend.forget(seq)


@pytest.fixture
def prompt(backend):
    tokens = backend.tokenize(TEXT * 5)[:100]
    sampler = backend.sampler(GREEDY, tokens[:1])  # the fake's next token depends on what it has read
    yield tokens
    sampler.close()


def is_recurrent(request) -> bool:
    return request.node.callspec.params["backend"].startswith(("recurrent", "hybrid"))


def evaluate(backend, seq: int, tokens: list[int], start: int = 0) -> int:
    """The row of the last token."""
    rows: list[int] = []
    for at in range(0, len(tokens), UBATCH):
        part = tokens[at : at + UBATCH]
        rows = backend.step([Run(seq, part, start + at, output=at + UBATCH >= len(tokens))])
    return rows[0]


def logits(backend, row: int) -> list[float]:
    """Of the first tokens of the vocabulary, as log-probabilities."""
    return backend.log_probabilities(row, range(COMPARED))


def near(some: list[float], others: list[float]) -> bool:
    return max(abs(one - other) for one, other in zip(some, others, strict=True)) <= TOLERANCE


def test_a_restored_sequence_goes_on_as_the_saved_one_to_the_last_bit(backend, prompt):
    evaluate(backend, 0, prompt[:-1])
    state = backend.save(0)
    backend.restore(1, state, len(prompt) - 1)
    expected = logits(backend, evaluate(backend, 0, prompt[-1:], len(prompt) - 1))
    assert logits(backend, evaluate(backend, 1, prompt[-1:], len(prompt) - 1)) == expected


def test_a_restored_prefix_gives_the_logits_of_a_fresh_evaluation(backend, prompt):
    expected = logits(backend, evaluate(backend, 0, prompt))
    backend.forget(0)
    evaluate(backend, 0, prompt[:45])
    state = backend.save(0)
    backend.forget(0)
    backend.restore(2, state, 45)
    assert near(logits(backend, evaluate(backend, 2, prompt[45:], 45)), expected)


def test_one_state_starts_many_sequences_and_they_do_not_mix(backend, prompt):
    evaluate(backend, 0, prompt[:40])
    state = backend.save(0)
    endings = [prompt[40:60], prompt[60:80]]
    expected = []
    for ending in endings:
        backend.forget(0)
        expected.append(logits(backend, evaluate(backend, 0, [*prompt[:40], *ending])))
    for seq, ending in enumerate(endings, 1):
        backend.restore(seq, state, 40)
        assert near(logits(backend, evaluate(backend, seq, ending, 40)), expected[seq - 1])


def test_a_sequence_that_moved_goes_on_to_the_last_bit_and_its_place_is_free_at_once(backend, prompt):
    evaluate(backend, 0, prompt[:-1])
    evaluate(backend, 2, prompt[:-1])
    expected = logits(backend, evaluate(backend, 0, prompt[-1:], len(prompt) - 1))
    backend.move(2, 1)
    others = prompt[::-1][:20]
    taken = logits(backend, evaluate(backend, 2, others))
    assert logits(backend, evaluate(backend, 1, prompt[-1:], len(prompt) - 1)) == expected
    backend.forget(0)
    assert taken == logits(backend, evaluate(backend, 0, others))


def test_restoring_replaces_what_the_sequence_held(backend, prompt):
    evaluate(backend, 0, prompt[:50])
    state = backend.save(0)
    evaluate(backend, 1, prompt[10:90])
    backend.restore(1, state, 50)
    expected = logits(backend, evaluate(backend, 0, prompt[50:], 50))
    assert logits(backend, evaluate(backend, 1, prompt[50:], 50)) == expected


def test_a_state_has_the_size_that_was_foretold_and_grows_with_the_sequence(backend, prompt):
    sizes = []
    for end in (10, 60):
        backend.forget(0)
        evaluate(backend, 0, prompt[:end])
        sizes.append(backend.state_bytes(0))
        assert len(backend.save(0)) == sizes[-1]
    assert sizes[0] < sizes[1]


def test_a_state_outlives_its_sequence_and_is_not_changed_by_it(backend, prompt):
    evaluate(backend, 0, prompt[:50])
    state = backend.save(0)
    before = bytes(state)
    evaluate(backend, 0, prompt[50:], 50)
    backend.forget(0)
    assert bytes(state) == before


@pytest.mark.parametrize("spoil", ["nothing in it", "cut short", "another length"])
def test_what_is_no_state_is_refused_and_leaves_an_empty_sequence(backend, prompt, spoil):
    evaluate(backend, 0, prompt[:50])
    good = backend.save(0)
    size = len(good) // 2 if spoil == "cut short" else len(good)
    state = mmap(-1, size)
    if spoil != "nothing in it":
        state[:] = good[:size]
    evaluate(backend, 1, prompt[:20])
    with pytest.raises(StateError):
        backend.restore(1, state, 51 if spoil == "another length" else 50)
    # Empty, so that it can be begun; and its neighbour goes on.
    fresh = logits(backend, evaluate(backend, 1, prompt))
    assert near(logits(backend, evaluate(backend, 0, prompt[50:], 50)), fresh)


def test_cutting_a_sequence_back_is_as_if_the_rest_had_never_been_read(request, backend, prompt):
    if is_recurrent(request):
        evaluate(backend, 0, prompt)
        assert not backend.truncate(0, 50)
        backend.forget(0)
        return
    evaluate(backend, 0, prompt[:50])
    expected = logits(backend, evaluate(backend, 0, prompt[90:], 50))
    evaluate(backend, 1, prompt[:80])
    assert backend.truncate(1, 50)
    assert near(logits(backend, evaluate(backend, 1, prompt[90:], 50)), expected)


@pytest.mark.model
@pytest.mark.parametrize("backend", ["window", "window q8_0"], indirect=True)
def test_what_a_window_has_forgotten_is_not_cut_back_to_and_the_sequence_goes_on(backend, prompt):
    expected = logits(backend, evaluate(backend, 0, [*prompt, *prompt[:50]]))
    backend.forget(0)
    evaluate(backend, 0, prompt)
    backend.restore(1, backend.save(0), len(prompt))  # a saved window is no longer than a window
    assert not backend.can_truncate
    assert not backend.truncate(1, len(prompt) - WINDOW_TOKENS)
    assert near(logits(backend, evaluate(backend, 1, prompt[:50], len(prompt))), expected)


def test_cutting_back_to_more_than_there_is_changes_nothing(backend, prompt):
    evaluate(backend, 0, prompt[:50])
    assert backend.truncate(0, 50)
    assert backend.truncate(0, 80)
    row = evaluate(backend, 0, prompt[50:], 50)
    assert logits(backend, row)


def test_a_longer_state_cut_back_is_the_prefix(backend, prompt):
    if not backend.can_truncate:
        with pytest.raises(StateError):
            backend.restore(0, mmap(-1, 64), 4)
        return
    expected = logits(backend, evaluate(backend, 0, prompt))
    backend.forget(0)
    evaluate(backend, 0, [*prompt[:60], *prompt[:30]])
    state = backend.save(0)
    backend.restore(1, state, 90)
    assert backend.truncate(1, 60)
    assert near(logits(backend, evaluate(backend, 1, prompt[60:], 60)), expected)
