"""What a request leaves open the configuration fills in, by the mode that the model is to work in."""

from __future__ import annotations

import pytest

from edged.api.config import Config, Model
from edged.api.requests import Message, Request, Sampling
from edged.order import order_of

PLAIN = Sampling(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5)
THINKING = Sampling(temperature=1.0, top_p=0.95)
MODEL = Model(thinking=False, thinking_budget=500, sampling=PLAIN, sampling_thinking=THINKING)


def order(model: Model = MODEL, **fields):
    asked = {
        "id": "a",
        "client": "c",
        "op": "chat",
        "messages": (Message(role="user", content="hi"),),
        **fields,
    }
    return order_of(Request(**asked), Config(model=model))


def test_without_thinking_the_models_preset_holds():
    assert order().sampling == PLAIN
    assert not order().thinking


def test_with_thinking_what_is_different_there_holds_too():
    found = order(thinking=True)
    assert found.thinking
    assert found.sampling == Sampling(temperature=1.0, top_p=0.95, top_k=20, presence_penalty=1.5)


@pytest.mark.parametrize("thinking", [True, False])
def test_what_the_request_says_counts_most(thinking):
    found = order(thinking=thinking, sampling=Sampling(temperature=0.0, seed=7))
    assert (found.sampling.temperature, found.sampling.seed, found.sampling.top_k) == (0.0, 7, 20)
    assert found.sampling.top_p == (0.95 if thinking else 0.8)


def test_the_models_default_decides_where_the_request_does_not():
    model = Model(thinking=True)
    assert order(model).thinking
    assert not order(model, thinking=False).thinking
    assert not order(model, op="generate", messages=(), prompt="x").thinking


def test_a_budget_is_the_requests_or_the_models_and_none_of_zero_tokens_is_no_thought():
    assert order(thinking=True).thinking_budget == 500
    assert order(thinking=True, thinking_budget=9).thinking_budget == 9
    assert order(Model(), thinking=True).thinking_budget is None
    none = order(thinking=True, thinking_budget=0)
    assert not none.thinking
    assert none.sampling == PLAIN
