"""Every rule of a request, whatever carried it: the field is named and nothing else happens."""

from __future__ import annotations

import math

import pytest

from edged.api.errors import BadRequest, TooLarge
from edged.api.requests import (
    MAX_MESSAGES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    SAMPLING_RANGES,
    Limits,
    Message,
    Request,
    Sampling,
    check,
)

LIMITS = Limits(max_prompt_bytes=100, max_tokens=50, default_max_tokens=10, default_ttl_s=60.0)
HELLO = (Message(role="user", content="hello"),)


def request(**fields) -> Request:
    return Request(**{"id": "a", "client": "c", "op": "chat", "messages": HELLO, **fields})


def test_a_request_at_every_limit_passes():
    check(
        request(
            id="x" * 64,
            messages=(Message(role="user", content="é" * 50),),
            max_tokens=50,
            stop=("s" * MAX_STOP_CHARS,) * MAX_STOP_STRINGS,
            ttl_s=604800.0,
            priority=9,
            sampling=Sampling(**{name: high for name, (_, high, _) in SAMPLING_RANGES.items()}),  # type: ignore[arg-type]
        ),
        LIMITS,
    )


@pytest.mark.parametrize("name", SAMPLING_RANGES)
@pytest.mark.parametrize("value", ["below", "above", math.nan])
def test_sampling_out_of_range_is_refused_by_name(name, value):
    low, high, _ = SAMPLING_RANGES[name]
    wrong = {"below": low - 1, "above": high + 1}.get(value, value)
    with pytest.raises(BadRequest, match=name):
        check(request(sampling=Sampling(**{name: wrong})), LIMITS)


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"id": ""}, BadRequest, "id"),
        ({"id": "x" * 65}, BadRequest, "id"),
        ({"id": "a\n"}, BadRequest, "id"),
        ({"client": "a/b"}, BadRequest, "client"),
        ({"messages": ()}, BadRequest, "messages"),
        ({"messages": (Message(role="system", content="x"),)}, BadRequest, "user"),
        ({"messages": HELLO * (MAX_MESSAGES + 1)}, TooLarge, "messages"),
        ({"messages": (Message(role="user", content="é" * 51),)}, TooLarge, "102 bytes"),
        (
            {"messages": (*HELLO, Message(role="tool", content="", tool_call_id="x" * 96))},
            TooLarge,
            "101 bytes",
        ),
        ({"messages": (Message(role="user", content="\ud800"),)}, BadRequest, "surrogates"),
        ({"op": "generate", "messages": ()}, BadRequest, "prompt"),
        ({"op": "generate", "messages": (), "prompt": "\udfff"}, BadRequest, "surrogates"),
        ({"stop": ("",)}, BadRequest, "stop"),
        ({"stop": ("x" * (MAX_STOP_CHARS + 1),)}, BadRequest, "stop"),
        ({"stop": ("x",) * (MAX_STOP_STRINGS + 1)}, BadRequest, "stop"),
        ({"stop": ("ok", "\ud800")}, BadRequest, "stop"),
        ({"max_tokens": 51}, BadRequest, "max_tokens"),
        ({"max_tokens": 0}, BadRequest, "max_tokens"),
        ({"ttl_s": 0.0}, BadRequest, "ttl_s"),
        ({"ttl_s": math.nan}, BadRequest, "ttl_s"),
        ({"ttl_s": math.inf}, BadRequest, "ttl_s"),
        ({"priority": -1}, BadRequest, "priority"),
    ],
)
def test_a_broken_rule_is_refused_by_name(fields, error, word):
    with pytest.raises(error, match=word):
        check(request(**fields), LIMITS)
