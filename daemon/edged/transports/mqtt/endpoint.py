"""Where the broker is and as whom to connect, and what a failed attempt to reach it means."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.transports.mqtt import tls
from edged.transports.mqtt.errors import BrokerUnreachable, NoAnswer

if TYPE_CHECKING:
    from edged.api.errors import EdgeError

DIAL_TIMEOUT_S = 5.0  # TCP and TLS each; a broker on a local network answers in milliseconds


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where to connect and as whom. ``receive_maximum`` counts requests without an acknowledgement."""

    host: str
    port: int
    version: str  # "5" or "3.1.1"
    client_id: str
    keepalive_s: int
    will_topic: str
    will_payload: bytes
    receive_maximum: int
    max_packet_bytes: int
    username: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None


def unreachable(error: OSError | ValueError, endpoint: Endpoint) -> EdgeError:
    """Why dialling ``endpoint`` failed, and what to look at."""
    if isinstance(error, ssl.SSLError):
        return tls.failed(error, endpoint.host)
    if endpoint.tls is not None and isinstance(error, ConnectionResetError):
        return BrokerUnreachable("TLS failed: it closed the connection", hint=tls.TLS_PORT_HINT)
    return BrokerUnreachable(_why(error), hint=_hint(error))


def no_answer(reason: str) -> NoAnswer:
    return NoAnswer(
        f"it took the connection but did not answer: {reason}",
        hint="is that port an MQTT broker, does it expect TLS, and a certificate (mqtt.cert_file)?",
    )


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"no answer in {DIAL_TIMEOUT_S:.0f} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _hint(error: OSError | ValueError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "is the broker running, and is mqtt.port right?"
    if isinstance(error, socket.gaierror):
        return "check mqtt.host, or write an address instead of a name"
    return "check mqtt.host and mqtt.port, and that this box reaches the broker"
