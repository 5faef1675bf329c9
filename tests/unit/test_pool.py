"""What a request needs, which boxes there are, who inherits, and which topics follow from it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.transports.mqtt.pool_boxes import STALE_S, Box, Boxes
from edged.transports.mqtt.pool_needs import Can, Needs, params_b, unmet
from edged.transports.mqtt.pool_topics import PoolTopics

CAN = Can(model="qwen3.5-4b", params_b=4.0, context=4096, features=("chat", "thinking"))
TOPICS = PoolTopics("edged", "pool")


def said(state, can=CAN):
    return msgspec.json.encode(Box(state, can))


@pytest.mark.parametrize(
    ("name", "size"),
    [("qwen3.5-4b", 4.0), ("SmolLM2-135M", 0.135), ("llama-3.2-1b-instruct", 1.0), ("gemma3", 0.0),
     ("b", 0.0), ("qwen3.5-0.8b", 0.8), ("phi-4-mini", 0.0)],
)  # fmt: skip
def test_the_size_of_a_model_is_read_from_its_name(name, size):
    assert params_b(name) == pytest.approx(size)


@pytest.mark.parametrize(
    ("needs", "op", "lacking"),
    [
        (None, "chat", ""),
        (None, "embed", "the operation embed"),
        (Needs(model="QWEN3.5-4B", params_b=4, context=4096, thinking=True), "chat", ""),
        (Needs(model="gemma3"), "chat", "the model gemma3"),
        (Needs(params_b=7), "chat", "a model of 7 thousand million parameters"),
        (Needs(context=8192), "chat", "a context of 8192 tokens"),
        (Needs(vision=True), "chat", "vision"),
    ],
)
def test_what_a_box_lacks_is_named(needs, op, lacking):
    assert unmet(needs, op, CAN) == lacking


def test_boxes_that_can_do_the_same_are_of_one_kind():
    assert CAN.kind == Can(**{name: getattr(CAN, name) for name in CAN.__struct_fields__}).kind
    assert CAN.kind != msgspec.structs.replace(CAN, context=8192).kind


def test_a_box_that_falls_silent_counts_as_offline():
    boxes = Boxes("a")
    boxes.hear("b", said("serving"), 0.0)
    assert set(boxes.serving(STALE_S)) == {"b"}
    assert boxes.serving(STALE_S + 1) == {}
    assert boxes.orphans(STALE_S + 1, serving=True) == ["b"]


def test_nonsense_and_names_that_cannot_be_are_not_taken_for_boxes():
    boxes = Boxes("a")
    for node, payload in [("b", b"{"), ("b", b"\xff"), ("b c", said("serving")), ("b", b'{"state":"hot"}')]:
        assert not boxes.hear(node, payload, 0.0)
    assert boxes.known() == []


@given(
    states=st.dictionaries(
        st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.sampled_from(["serving", "offline"])
    )
)
def test_every_box_that_is_gone_has_one_heir_on_whom_all_agree(states):
    serving = {node for node, state in states.items() if state == "serving"}
    claims = []
    for node in serving:
        boxes = Boxes(node)
        for other, state in states.items():
            boxes.hear(other, said(state), 0.0)
        claims += boxes.orphans(0.0, serving=True)
        assert boxes.orphans(0.0, serving=False) == [] or len(serving) > 1
    assert sorted(claims) == sorted(set(states) - serving if serving else [])


@pytest.mark.parametrize("rest", ["request/esp/chat", "ask"])
def test_a_request_that_was_handed_on_keeps_the_topic_of_its_device(rest):
    topic = f"edged/pool/{rest}"
    for way in ("kind", "spare"):
        handed = TOPICS.handed(way, "01234567", topic)
        assert handed == f"edged/pool/{way}/01234567/{rest}"
        assert TOPICS.original(handed) == topic
    assert TOPICS.original(topic) == topic


def test_what_a_box_listens_to_follows_from_what_it_has_to_do():
    idle = TOPICS.wanted("k", intake=True, spare=True, surplus=False)
    full = TOPICS.wanted("k", intake=True, spare=False, surplus=True)
    assert idle - full == {"$share/edged/edged/pool/spare/k/#"}
    assert full - idle == {"$share/edged/edged/pool/free/+"}
    assert TOPICS.wanted("k", intake=False, spare=False, surplus=False) == set()
    assert idle | full == TOPICS.every({"k"})
