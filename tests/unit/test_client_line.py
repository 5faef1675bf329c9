"""The client's connection to the broker: what its two threads share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgectl.client.address import MqttAddress
from edgectl.client.mqtt_line import Line

TAKEN = ReasonCode(PacketTypes.PUBACK, "Success")
REFUSED = ReasonCode(PacketTypes.PUBACK, "Not authorized")


class Paho:
    """Gives every message the same id, as ids come again after 65 535 messages."""

    protocol = MQTTProtocolVersion.MQTTv5

    def __init__(self) -> None:
        self.meanwhile = lambda: None

    def publish(self, *_, **__):
        self.meanwhile()
        return SimpleNamespace(mid=7)


@pytest.fixture
def line():
    made = Line(MqttAddress(host="127.0.0.1", port=1883), client="c", password=None, tls=None)
    made._paho = Paho()
    return made


def acknowledge(line, reason, mid=7):
    line._on_publish(line._paho, None, mid, reason, None)


def test_a_refusal_reaches_the_one_whose_message_it_was(line):
    heard = []
    line.publish("t", b"", refused=heard.append)
    acknowledge(line, REFUSED, mid=8)
    acknowledge(line, REFUSED)
    assert heard == ["Not authorized"]


def test_a_refusal_that_comes_before_the_id_is_known_is_heard_too(line):
    heard = []
    line._paho.meanwhile = lambda: acknowledge(line, REFUSED)
    line.publish("t", b"", refused=heard.append)
    assert heard == ["Not authorized"]


def test_what_was_refused_long_ago_fails_no_message_of_the_same_id(line):
    old, new = [], []
    line.publish("cancel", b"", refused=old.append)
    acknowledge(line, REFUSED)
    acknowledge(line, REFUSED)
    line.publish("t", b"", refused=new.append)
    assert (old, new) == (["Not authorized"], [])
    acknowledge(line, TAKEN)
    acknowledge(line, REFUSED)
    assert new == []


def test_an_early_acknowledgement_leaves_nobody_waiting_for_a_refusal(line):
    heard = []
    line._paho.meanwhile = lambda: acknowledge(line, TAKEN)
    line.publish("t", b"", refused=heard.append)
    acknowledge(line, REFUSED)
    assert heard == []


def test_what_is_kept_can_be_looked_through_while_more_comes(line):
    def comes(topic):
        message = MQTTMessage(topic=topic)
        message.payload = b"online"
        line._on_message(line._paho, None, message)

    comes(b"edged/a/info")
    topics = iter(line.kept)
    comes(b"edged/b/info")
    assert list(topics) == ["edged/a/info"]
    assert set(line.kept) == {"edged/a/info", "edged/b/info"}
