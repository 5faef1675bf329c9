"""What a request needs, which boxes there are, who inherits, and which topics follow from it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.transports.mqtt import pool_backlog
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.pool_backlog import HOPS, WAITED, Backlog, waiting
from edged.transports.mqtt.pool_boxes import STALE_S, Box, Boxes
from edged.transports.mqtt.pool_calls import CALL_S, MOST, Calls
from edged.transports.mqtt.pool_needs import Can, Needs, params_b, unmet
from edged.transports.mqtt.pool_topics import PoolTopics
from edged.transports.mqtt.topics import RequestTopic

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
        (Needs(vision=True), "chat", "vision (a model that sees pictures)"),
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
    handed = TOPICS.handed("hall", topic)
    assert handed == f"edged/pool/give/hall/{rest}"
    assert TOPICS.original(handed) == topic
    assert TOPICS.original(topic) == topic


def test_what_a_box_listens_to_follows_from_what_it_has_to_do():
    idle = TOPICS.wanted("k", intake=True, spare=True, surplus=False)
    full = TOPICS.wanted("k", intake=True, spare=False, surplus=True)
    assert idle - full == {"$share/edged/edged/pool/spare/k"}
    assert full - idle == {"$share/edged/edged/pool/free/+"}
    assert TOPICS.wanted("k", intake=False, spare=False, surplus=False) == set()
    assert idle | full | {"edged/pool/give/hall/#"} == TOPICS.every("hall", {"k"})


def test_a_call_counts_once_for_a_box_that_suits_and_not_for_long():
    calls = Calls()
    for node, now_s in (("a", 0.0), ("b", 0.125), ("a", 0.25)):
        calls.add(node, now_s)
    assert calls.count(0.25) == 3
    assert calls.take(lambda node: node == "c", 0.25) is None
    assert calls.take(lambda node: node == "b", 0.25) == "b"
    assert calls.take(lambda node: node == "b", 0.25) is None
    assert calls.count(CALL_S) == 1
    assert calls.take(lambda _: True, 0.25 + CALL_S) is None


def test_calls_without_end_are_bounded():
    calls = Calls()
    for _ in range(10 * MOST):
        calls.add("a", 0.0)
    assert calls.count(0.0) == MOST
    calls.clear()
    assert calls.count(0.0) == 0


class Link:
    """A connection, as far as what waits asks about it."""

    alive = True


def dealt(payload=b"{}", *, user=(), expiry_s=None, now_s=100.0, connection=None):
    message = Incoming(
        topic="edged/pool/request/esp/chat", payload=payload, mid=1, qos=1, retain=False, dup=False,
        expiry_s=expiry_s, user=user,
    )  # fmt: skip
    place = RequestTopic("esp", "chat")
    return waiting(connection, message, place, now_s=now_s, default_ttl_s=600.0)  # type: ignore[arg-type]


def test_the_time_a_request_has_counts_over_all_boxes_it_waits_at():
    first = dealt(b'{"ttl_s": 30}')
    assert first.deadline_s == 130.0
    second = dealt(b'{"ttl_s": 30}', user=tuple(first.notes(110.0)), now_s=7.0)
    assert (second.hops, second.waited_s, second.deadline_s) == (1, 10.0, 27.0)
    assert dealt(expiry_s=20).deadline_s == 120.0
    assert dealt(expiry_s=20).aged(105.5).expiry_s == 14
    assert dealt().deadline_s == 700.0


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"\xff", b'{"ttl_s": "x"}', b'{"needs": 5}', b'{"id": 7}']
)
def test_what_cannot_be_read_waits_like_anything_else_and_needs_nothing(payload):
    found = dealt(payload, user=((HOPS, "-1"), (WAITED, "9" * 40)))
    assert (found.id, found.needs, found.hops, found.waited_s, found.ttl_s) == (None, None, 0, 0.0, 600.0)


def test_what_is_put_back_is_the_oldest_again_and_what_was_taken_is_gone():
    backlog, entries = Backlog(), [dealt(b'{"id": "%d"}' % number) for number in range(3)]
    for entry in entries:
        backlog.add(entry)
    assert backlog.remove(entries[0])
    assert not backlog.remove(entries[0])
    backlog.restore(entries[0])
    assert [entry.id for entry in backlog] == ["0", "1", "2"]
    assert backlog.first(lambda entry: entry.id != "0") is entries[1]
    assert backlog.take(lambda entry: entry.id == "2") == [entries[2]]
    assert len(backlog) == 1


def test_what_begins_is_as_old_as_it_is_in_the_whole_pool():
    first = dealt(b'{"ttl_s": 30}', expiry_s=40)
    assert first.begun(110.0) == (first.message, 10.0)
    second = dealt(
        b'{"ttl_s": 30}', user=tuple(first.notes(110.0)), expiry_s=first.aged(110.0).expiry_s, now_s=7.0
    )
    message, waited_s = second.begun(12.0)
    assert (message.expiry_s, waited_s) == (40, 15.0)
    assert second.deadline_s == 27.0
    assert dealt(expiry_s=20, user=((WAITED, "10000"),)).deadline_s == 120.0, "what is left was told"


@pytest.mark.parametrize(("limit", "value"), [("MAX_COUNT", 2), ("MAX_BYTES", 20)])
def test_what_does_not_fit_comes_again_once_all_else_is_gone(monkeypatch, limit, value):
    monkeypatch.setattr(pool_backlog, limit, value)
    link, backlog = Link(), Backlog()
    entries = [dealt(b"x" * 10, connection=link) for _ in range(3)]
    assert [backlog.add(entry) for entry in entries] == [True, True, False]
    assert backlog.left() == set()
    backlog.take(lambda _: True)
    assert backlog.left() == {link}
    assert backlog.left() == set()
