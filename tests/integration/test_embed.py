"""Vectors of texts are those the model's pooling makes, the same in company as alone, and of length 1."""

from __future__ import annotations

import asyncio
import math
from queue import SimpleQueue

import numpy as np
import pytest
from llama_cpp import llama_cpp as api

from edged.api.events import Failed, Finished
from edged.api.requests import Request, Sampling
from edged.ipc.messages import Cancel, Done, EngineOptions, Rejected, Start
from edged.worker.backends.base import LoadError
from edged.worker.backends.fake import FakeBackend, Script
from edged.worker.backends.llama import load_llama
from edged.worker.embedding_loop import EmbeddingLoop
from tests.kit.model import smollm2_tree
from tests.kit.random_bert import random_bert
from tests.kit.random_model import random_embedder, random_model
from tests.kit.service import chat, fake_model, fake_tree, running_service

SLOTS, UBATCH, CONTEXT = 3, 48, 160
OPTIONS = EngineOptions(context=CONTEXT, slots=SLOTS, ubatch=UBATCH, threads=1, repack=False, embeddings=True)
TEXTS = (
    "warm",
    "the water is warm",
    "a",
    "the door is open and the pump is",
    "cold, 4 bar",
    "no. 12!",
    "ab" * 9,
)

# name → how the file is made, and how it pools
MODELS = {
    "last": (lambda folder: random_embedder(folder, "last"), "last"),
    "mean": (lambda folder: random_embedder(folder, "mean"), "mean"),
    "mean, both ways": (lambda folder: random_embedder(folder, "mean", causal=False), "mean"),
    "last, both ways": (lambda folder: random_embedder(folder, "last", causal=False), "last"),
    "cls, both ways": (lambda folder: random_embedder(folder, "cls", causal=False), "cls"),
    "unsaid": (lambda folder: random_embedder(folder, ""), "last"),
    "unsaid, both ways": (lambda folder: random_embedder(folder, "", causal=False), "mean"),
    "hybrid": (random_model, "last"),
    "bert mean": (lambda folder: random_bert(folder, "mean"), "mean"),
    "bert cls": (lambda folder: random_bert(folder, "cls"), "cls"),
}


class Stage:
    """The loop of an embedding worker and all it says."""

    def __init__(self, backend) -> None:
        self.backend = backend
        self.inbox: SimpleQueue = SimpleQueue()
        self.said: list = []
        self.loop = EmbeddingLoop(
            backend,
            backend.pooling,
            budget=UBATCH,
            inbox=self.inbox,
            send=self.said.append,
            progressed=lambda: None,
            busy=lambda _value: None,
            clock=lambda: 0.0,
        )

    def start(self, key: int, *inputs: str, **fields) -> None:
        fields = {"op": "embed", "max_tokens": 1, "sampling": Sampling(), **fields}
        self.inbox.put(Start(key=key, inputs=inputs, **fields))

    def play(self) -> None:
        for _ in range(1000):
            self.loop.turn(wait=False)
            if self.loop.idle and self.inbox.empty():
                return
        raise AssertionError("the loop does not come to an end")

    def end(self, key: int) -> Done | Rejected:
        (one,) = [said for said in self.said if said.key == key]
        return one

    def vectors(self, *inputs: str) -> np.ndarray:
        key = 1 + len(self.said)
        self.start(key, *inputs)
        self.play()
        return np.array(self.end(key).embeddings)


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    make, kind = MODELS[request.param]
    return make(tmp_path_factory.mktemp("model")), kind


@pytest.fixture
def backend(model):
    loaded = load_llama(str(model[0]), OPTIONS, lambda: None)
    yield loaded
    loaded.close()


def states(path, tokens: list[int]) -> np.ndarray:
    """What the last layer says of each token, with all of them in one step: nothing is pooled."""
    params = api.llama_model_default_params()
    params.use_extra_bufts = False
    loaded = api.llama_model_load_from_file(str(path).encode(), params)
    params = api.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = True
    params.pooling_type = api.LLAMA_POOLING_TYPE_NONE
    context = api.llama_init_from_model(loaded, params)
    batch = api.llama_batch_init(CONTEXT, 0, 1)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, index, 1
        batch.seq_id[index][0], batch.logits[index] = 0, 1
    batch.n_tokens = len(tokens)
    assert api.llama_decode(context, batch) == 0
    size = api.llama_model_n_embd_out(loaded)
    rows = [api.llama_get_embeddings_ith(context, index)[:size] for index in range(len(tokens))]
    api.llama_batch_free(batch)
    api.llama_free(context)
    api.llama_model_free(loaded)
    return np.array(rows)


@pytest.mark.model
def test_a_text_that_the_vocabulary_cannot_read_is_refused_and_the_next_one_answered(backend, monkeypatch):
    stage = Stage(backend)
    with monkeypatch.context() as patch:
        patch.setattr("edged.worker.backends.llama.SPARE_TOKENS", 1 - len(TEXTS[0].encode()))
        patch.setattr("edged.worker.backends.llama.MOST_TOKENS", 1)
        stage.start(1, TEXTS[0])
        stage.play()
    stage.start(2, TEXTS[0])
    stage.play()
    assert stage.end(1).code == "bad_request"
    assert len(stage.end(2).embeddings) == 1


@pytest.mark.model
def test_a_vector_is_the_pool_of_its_tokens_by_the_metadata_of_the_model(model, backend):
    path, kind = model
    assert backend.pooling.kind == kind
    for text in TEXTS:
        rows = states(path, backend.tokenize(text, control=False))
        pooled = {"mean": rows.mean(axis=0), "cls": rows[0], "last": rows[-1]}[kind]
        (vector,) = Stage(backend).vectors(text)
        assert vector == pytest.approx(pooled / np.linalg.norm(pooled), abs=2e-3)


@pytest.mark.model
def test_many_texts_at_once_get_the_vectors_they_get_alone(backend):
    stage = Stage(backend)
    alone = [stage.vectors(text)[0] for text in TEXTS]
    together = stage.vectors(*TEXTS)
    assert together == pytest.approx(np.array(alone), abs=2e-3)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(TEXTS)))
    assert len({tuple(np.round(row, 3)) for row in together}) == len(TEXTS)


@pytest.mark.model
def test_a_text_is_as_long_as_its_model_allows_and_not_longer(backend):
    stage = Stage(backend)
    most = backend.pooling.tokens
    assert most == (CONTEXT if backend.pooling.piecewise else UBATCH)
    wrapped = len(backend.tokenize("", control=False))
    for key, count in ((1, most), (2, most + 1)):
        stage.start(key, "a", "." * (count - wrapped))
    stage.play()
    assert stage.end(1).usage.prompt_tokens == most + wrapped + 1
    assert stage.end(2).code == "too_large"
    assert f"inputs[1] has {most + 1} tokens" in stage.end(2).message


def fake_stage(**script) -> Stage:
    return Stage(FakeBackend(Script(**script), OPTIONS))


def test_usage_counts_the_tokens_of_all_texts_and_no_answer():
    stage = fake_stage()
    stage.start(1, "abc", "defgh")
    stage.play()
    assert stage.end(1).usage.prompt_tokens == 8
    assert stage.end(1).usage.completion_tokens == 0
    assert stage.backend._cells == {}


def test_a_text_is_plain_text_even_where_it_names_a_control_token(tmp_path):
    backend = load_llama(str(random_embedder(tmp_path)), OPTIONS, lambda: None)
    assert len(backend.tokenize("<|im_end|>", control=False)) > len(backend.tokenize("<|im_end|>"))
    backend.close()


def test_cancelled_and_expired_requests_leave_the_others_what_they_get_alone():
    stage = fake_stage()
    expected = fake_stage().vectors("second", "third")
    stage.start(1, *(f"first {n}" * 5 for n in range(9)))
    stage.start(2, "second", "third")
    stage.start(3, "fourth")
    stage.loop.turn(wait=False)
    stage.inbox.put(Cancel(key=1))
    stage.inbox.put(Cancel(key=3))
    stage.inbox.put(Cancel(key=99))
    stage.play()
    assert stage.end(1).code == stage.end(3).code == "cancelled"
    assert np.array(stage.end(2).embeddings) == pytest.approx(expected)
    assert stage.backend._cells == {}


def test_the_urgent_goes_before_those_that_have_not_begun():
    stage = fake_stage()
    stage.start(1, *["at work"] * 9)
    stage.loop.turn(wait=False)
    stage.start(2, "waits")
    stage.start(3, "urgent", priority=9)
    stage.play()
    assert [said.key for said in stage.said] == [1, 3, 2]


def test_a_worker_for_embeddings_refuses_what_wants_an_answer():
    stage = fake_stage()
    stage.start(1, op="chat")
    stage.play()
    assert stage.end(1).code == "bad_request"
    assert "model.embeddings" in stage.end(1).message


@pytest.mark.model
def test_a_model_that_ranks_is_refused_with_the_reason(tmp_path):
    with pytest.raises(LoadError, match="ranks"):
        load_llama(str(random_bert(tmp_path, "rank")), OPTIONS, lambda: None)


def embed(*inputs: str, **fields) -> Request:
    return Request(**{"id": "e", "client": "test", "op": "embed", "inputs": inputs, **fields})


@pytest.mark.model
def test_the_settings_of_an_embedding_model_are_chosen_by_trying_too(tmp_path):
    tree = {
        "node": "box",
        "model": {"path": str(random_bert(tmp_path)), "context": 128, "threads": 1, "embeddings": True},
    }

    async def scenario():
        async with running_service(tree, tmp_path) as box:
            assert len((await box.events(embed("warm")))[-1].embeddings[0]) == 128
            assert (tmp_path / "selftest.json").exists()

    run(scenario())


def run(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


@pytest.mark.model
def test_a_box_with_an_embedding_model_serves_many_clients_at_once(tmp_path):
    model = {"path": str(random_bert(tmp_path)), "context": 128, "slots": 4, "ubatch": 96, "embeddings": True}
    tree = {"node": "box", "model": {"repack": "off", "threads": 1, **model}}

    async def scenario():
        async with running_service(tree, tmp_path) as box:
            alone = (await box.events(embed(*TEXTS)))[-1]
            assert isinstance(alone, Finished)
            assert alone.text == ""
            assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-6) for vector in alone.embeddings)
            answers = await asyncio.gather(
                *(box.events(embed(text, id=f"e{n}")) for n, text in enumerate(TEXTS))
            )
            for events, vector in zip(answers, alone.embeddings, strict=True):
                assert events[-1].embeddings[0] == pytest.approx(vector, abs=2e-3)
            assert alone.usage.prompt_tokens == sum(events[-1].usage.prompt_tokens for events in answers)
            refused = await box.ask("hello")
            assert isinstance(refused, Failed)
            assert refused.code == "bad_request"

    run(scenario())


@pytest.mark.model
def test_a_box_with_a_chat_model_says_what_it_would_take_to_embed(tmp_path):
    async def scenario():
        async with running_service(smollm2_tree(), tmp_path) as box:
            refused = (await box.events(embed("hello")))[-1]
            assert isinstance(refused, Failed)
            assert refused.code == "bad_request"
            assert "model.embeddings" in refused.message
            assert (await box.events(chat("Hi", max_tokens=1)))[-1].finish == "length"

    run(scenario())


def test_what_is_no_request_for_embeddings_is_refused_before_any_work(tmp_path):
    tree = fake_tree(fake_model(tmp_path), model={"embeddings": True})

    async def scenario():
        async with running_service(tree, tmp_path) as box:
            for request in (embed(), embed("a", ""), embed(*["a"] * 65), embed("\ud800")):
                (refused,) = await box.events(request)
                assert refused.code == "bad_request"
            assert len((await box.events(embed(*["a"] * 64)))[-1].embeddings) == 64

    run(scenario())
