"""What can go wrong between this box and its broker, and what MQTT clients read about their requests."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from edged.api.errors import EdgeError
from edged.api.status import Condition

if TYPE_CHECKING:
    from collections.abc import Mapping


class BrokerUnreachable(EdgeError):
    """No connection: no route, nothing listens, TLS failed, no CONNACK."""

    code = "mqtt_disconnected"
    retryable = True


class NoAnswer(BrokerUnreachable):
    """Something took the connection and the CONNECT, and never sent a CONNACK."""


class BrokerRefused(EdgeError):
    """The broker answered, and its answer was no."""

    code = "mqtt_refused"
    retryable = True


class VersionRefused(BrokerRefused):
    """The broker does not speak the protocol version of this CONNECT."""


# An installed service has the file as it was when systemd started it.
_RESTART = "; after a change of that file, restart edged"
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "Bad user name or password": f"check mqtt.username and the file mqtt.password_file{_RESTART}",
        "Not authorized": (
            f"check mqtt.username, the broker's ACL and the file mqtt.password_file{_RESTART}"
        ),
        "Banned": "the broker has banned this client id; see its log",
        "Retain not supported": "the broker must allow retained messages: status and info need them",
        "Client identifier not valid": "the broker does not take our client id; try a shorter `node`",
        "Unsupported protocol version": 'try mqtt.version = "3.1.1"',
    }
)


def refused(reason: str) -> BrokerRefused:
    """The error for a CONNACK that says no, with the reason's name in paho's words."""
    kind = VersionRefused if reason == "Unsupported protocol version" else BrokerRefused
    return kind(reason, hint=_HINTS.get(reason, "the broker's log says more"))


def not_taken(refused: Mapping[str, str], where: str) -> Condition | None:
    """The condition for topics on which the broker takes nothing of ours, each with its reason."""
    if not refused:
        return None
    topics = ", ".join(f"{topic} ({reason})" for topic, reason in refused.items())
    return Condition(
        code=BrokerRefused.code,
        severity="warning",
        message=f"the MQTT broker ({where}) refuses what this box publishes on {topics}",
        hint="allow these topics in the broker's ACL; the broker's log says more",
    )


# What a client reads as error.code. A device's table stays short: what only the box can tell apart
# (a lost engine is a defect of ours, a daemon that stops is not ready for now) shares a code.
WIRE_CODES: Mapping[str, str] = MappingProxyType(
    {
        "bad_request": "bad_request",
        "too_large": "too_large",
        "busy": "busy",
        "expired": "expired",
        "loading": "loading",
        "draining": "loading",
        "memory_guard": "memory_guard",
        "thermal": "thermal",
        "cancelled": "cancelled",
        "no_box": "no_box",
        "engine_lost": "internal",
        "internal": "internal",
    }
)
