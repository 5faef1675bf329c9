"""The policy on topics: what is heard, and where answers may go."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.api.errors import BadRequest
from edged.transports.mqtt.topics import MAX_REPLY_TOPIC_BYTES, Ask, CancelTopic, RequestTopic, Topics

TOPICS = Topics("edged", "box")
OWN = "edged/box/response/me"
PREFIXES = ("app/replies", "site/+/x", "edged", "")


def allowed(topic, prefixes=PREFIXES):
    try:
        return TOPICS.check_reply(topic, own=OWN, prefixes=prefixes, field="reply_to") == topic
    except BadRequest:
        return False


def test_a_refusal_names_the_field_and_the_rule():
    with pytest.raises(BadRequest, match=r"^response topic: must not start with \$$"):
        TOPICS.check_reply("$SYS", own=OWN, prefixes=PREFIXES, field="response topic")


@pytest.mark.parametrize(
    ("topic", "meaning"),
    [
        ("edged/box/ask", Ask()),
        ("edged/box/request/me/chat", RequestTopic("me", "chat")),
        ("edged/box/request/me/nonsense", RequestTopic("me", "nonsense")),
        ("edged/box/cancel/me", CancelTopic("me")),
        ("edged/box/request/me", None),
        ("edged/box/request/me/chat/x", None),
        ("edged/box/request//chat", None),
        ("edged/box/request/me/", None),
        ("edged/box/request/a b/chat", None),
        ("edged/box/request/me/Chat", None),
        ("edged/box/request/http:127.0.0.1/chat", None),
        ("edged/box/cancel/key:phone", None),
        ("edged/box/request/" + "x" * 65 + "/chat", None),
        ("edged/other/ask", None),
        ("edged/box", None),
        ("", None),
    ],
)
def test_topics_are_told_apart(topic, meaning):
    assert TOPICS.parse(topic) == meaning


@given(
    st.text(max_size=80) | st.from_regex(r"edged/box/(request|cancel|ask)(/[^/]{0,70}){0,3}", fullmatch=True)
)
def test_no_topic_breaks_the_parser_and_what_it_accepts_names_our_own_topics(topic):
    match TOPICS.parse(topic):
        case RequestTopic(client, op):
            assert TOPICS.response(client, op) == topic.replace("/request/", "/response/")
        case CancelTopic(client):
            assert TOPICS.stream(client) == topic.replace("/cancel/", "/stream/")


@pytest.mark.parametrize("topic", [OWN, f"{OWN}/chat", f"{OWN}/a/b", "app/replies", "app/replies/7"])
def test_own_topics_and_configured_prefixes_are_allowed(topic):
    assert allowed(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "", "$SYS/broker", "$share/g/app/replies", "app/replies/+", "app/replies/#", "app/replies/\x00",
        "app/replies/\x1f", "app/replies/\x7f", "app/replies/\ud800", "app/repliesX", "app/replies2/x", "app",
        "/app/replies", "APP/replies", "site/a/x", "site/+/x", "edged", "edged/box/request/me/chat",
        "edged/other/request/me/chat", "edged/box/response/you/chat", "edged/box/response/me2/chat",
        "edged/box/status", "edged/box/answer", "homeassistant/x",
        "app/replies/" + "x" * MAX_REPLY_TOPIC_BYTES,
    ],
)  # fmt: skip
def test_everything_else_is_refused(topic):
    assert not allowed(topic)


SEGMENT = st.sampled_from(
    ["edged", "box", "response", "me", "you", "app", "replies", "$SYS", "+", "#", "", "..", "\x00"]
)


@given(st.lists(SEGMENT, max_size=7).map("/".join) | st.text(max_size=300))
@example("edged/box/response/me/../you")
def test_whatever_is_allowed_is_a_plain_topic_in_an_allowed_place(topic):
    if allowed(topic):
        assert topic == OWN or topic.startswith((f"{OWN}/", "app/replies")) or topic == "app/replies"
        assert not topic.startswith("$")
        assert not set(topic) & set("+#\x00")
        assert len(topic.encode()) <= MAX_REPLY_TOPIC_BYTES
        assert topic.count("/") == 0 or topic.split("/")[0] in {"edged", "app"}


def test_a_prefix_never_opens_the_topics_of_this_or_another_node():
    assert not allowed("edged/other/response/me/chat", prefixes=("edged",))
    assert not allowed("edged/box/request/me/chat", prefixes=("edged/box",))


def test_a_base_may_have_levels():
    deep = Topics("site/hall/edged", "box")
    assert deep.parse("site/hall/edged/box/request/me/chat") == RequestTopic("me", "chat")
    assert all(topic.startswith("site/hall/edged/box/") for topic, _ in deep.subscriptions)
