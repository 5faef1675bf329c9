"""A message from the broker, free of the library that received it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Incoming(Struct, frozen=True, kw_only=True):
    """A message as it came; what has a default is known on MQTT 5 only."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    retain: bool
    dup: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()  # user properties


def from_paho(message: Any) -> Incoming:
    """``message`` as paho hands it over; a topic that is not UTF-8 becomes empty, which nobody serves."""
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = ""
    properties = message.properties
    return Incoming(
        topic=topic,
        payload=bytes(message.payload),
        mid=message.mid,
        qos=message.qos,
        retain=message.retain,
        dup=message.dup,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
        user=tuple(getattr(properties, "UserProperty", ())),
    )
