"""Where things are published and heard, and the policy on where answers may go (pure)."""

from __future__ import annotations

import re
from typing import ClassVar, TypeAlias

from msgspec import Struct

from edged.api.errors import BadRequest
from edged.api.requests import ID_PATTERN
from edged.api.topics import NodeTopics

MAX_REPLY_TOPIC_BYTES = 256  # the longest topic AWS IoT Core takes, and far more than a person types
ANNOUNCED = "home-assistant.topic"  # in the state folder: where Home Assistant was told of this box
OF_HTTP = ("http:", "key:")
OF_ASK = "ask"  # the client of questions in plain text
_OP_PATTERN = re.compile(r"[a-z_]{1,32}")


class Ask(Struct, frozen=True):
    """Plain text in, plain text out; nobody owns it, so all who ask are one client."""

    client: ClassVar[str] = OF_ASK
    op: ClassVar[str] = "ask"


class RequestTopic(Struct, frozen=True):
    """``op`` is a well-formed segment; whether it names an operation is the codec's matter."""

    client: str
    op: str


class CancelTopic(Struct, frozen=True):
    client: str


Inbound: TypeAlias = Ask | RequestTopic | CancelTopic


class Topics(NodeTopics, frozen=True):
    """Every topic of one node."""

    @property
    def model(self) -> str:
        return f"{self.root}/model"

    @property
    def last_answer(self) -> str:
        return f"{self.root}/last_answer"

    @property
    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """(filter, QoS) of everything this node hears.

        ``cancel`` is heard at QoS 0 whatever QoS it was published with: with as many unanswered
        requests as the receive maximum allows, a broker would hold a QoS 1 message back until one of
        them is answered, which is what cancelling is meant to shorten. A late cancel is worth nothing.
        """
        return (
            (self.ask, 1),
            (self.request("+", "+"), 1),
            (self.cancel("+"), 0),
        )

    def parse(self, topic: str) -> Inbound | None:
        """What a message on ``topic`` is; None when its client or op segment is not well-formed."""
        rest = topic.removeprefix(f"{self.root}/")
        if rest == topic:
            return None
        match rest.split("/"):
            case ["ask"]:
                return Ask()
            case ["request", client, op] if _is_client(client) and _OP_PATTERN.fullmatch(op):
                return RequestTopic(client, op)
            case ["cancel", client] if _is_client(client):
                return CancelTopic(client)
        return None

    def check_reply(self, topic: str, *, own: str, prefixes: tuple[str, ...], field: str) -> str:
        """``topic`` if an answer may go there; raises BadRequest naming ``field`` and the broken rule.

        ``own`` is the requester's ordinary place: itself and everything below it is allowed. Besides it,
        only what lies at or below one of ``prefixes``, and never another topic below ``base``: an answer
        must not become a request, a cancel or somebody else's answer, on this node or another.
        """
        broken = _malformed(topic)
        if broken:
            raise BadRequest(f"{field}: {broken}")
        if _at_or_below(topic, own):
            return topic
        if _at_or_below(topic, self.base) or not any(_at_or_below(topic, prefix) for prefix in prefixes):
            raise BadRequest(
                f"{field}: answers go to {own} or below it, or below a prefix of mqtt.reply_prefixes"
            )
        return topic


def _is_client(name: str) -> bool:
    """Names that the box gives to clients itself are not for the taking: they could cancel for them."""
    return bool(ID_PATTERN.fullmatch(name)) and not name.startswith(OF_HTTP) and name != OF_ASK


def _malformed(topic: str) -> str:
    """Which rule of MQTT topic names (or ours) ``topic`` breaks; empty when none."""
    if not topic:
        return "must not be empty"
    if topic.startswith("$"):
        return "must not start with $"
    if re.search(r"[+#]", topic):
        return "must not contain a wildcard (+ or #)"
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]", topic):
        return "must not contain control characters"
    if len(topic.encode()) > MAX_REPLY_TOPIC_BYTES:
        return f"must have at most {MAX_REPLY_TOPIC_BYTES} bytes"
    return ""


def _at_or_below(topic: str, prefix: str) -> bool:
    whole = prefix.rstrip("/")
    return bool(whole) and (topic == whole or topic.startswith(f"{whole}/"))
