"""MQTT 3.1.1 and 5: topics, payloads, the broker connection, and the life of one request over it."""

from edged.transports.mqtt.transport import MqttTransport as MqttTransport
