"""The paho client of one connection: its options, and its CONNECT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.transports.mqtt.endpoint import DIAL_TIMEOUT_S

if TYPE_CHECKING:
    from edged.transports.mqtt.endpoint import Endpoint

SESSION_EXPIRY_S = 86400  # how long a broker keeps requests for a box that is off
INFLIGHT = 10  # QoS 1 messages of ours without PUBACK; HiveMQ's smallest receive maximum


def build(endpoint: Endpoint) -> paho.Client:
    """A client that is not connected, acknowledges nothing by itself and never reconnects."""
    five = endpoint.version == "5"
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=endpoint.client_id,
        clean_session=None if five else False,
        protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = DIAL_TIMEOUT_S
    client.max_inflight_messages = INFLIGHT
    client.will_set(endpoint.will_topic, endpoint.will_payload, qos=1, retain=True)
    if endpoint.username:
        client.username_pw_set(endpoint.username, endpoint.password)
    if endpoint.tls is not None:
        client.tls_set_context(endpoint.tls)
    return client


def connect(client: paho.Client, endpoint: Endpoint) -> None:
    """Dial and send CONNECT, which blocks; raises OSError, or ValueError for a host that cannot be one."""
    if endpoint.version != "5":
        client.connect(endpoint.host, endpoint.port, endpoint.keepalive_s)
        return
    wanted = properties(
        PacketTypes.CONNECT,
        SessionExpiryInterval=SESSION_EXPIRY_S,
        ReceiveMaximum=max(1, min(65535, endpoint.receive_maximum)),
        MaximumPacketSize=endpoint.max_packet_bytes,
    )
    client.connect(endpoint.host, endpoint.port, endpoint.keepalive_s, clean_start=False, properties=wanted)


def properties(packet: int, **values: Any) -> Properties:
    """Properties of MQTT 5 by their names."""
    made = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(made, name, value)
    return made
