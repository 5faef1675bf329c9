"""The client's connection to the broker: made once, kept up, and taken down without a trace.

paho's thread calls the ``_on_*`` methods. They and everybody else hold ``_changed`` only for a moment and
never while they call paho, whose own locks are held during callbacks.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgectl.client.refusals import Refusals
from edgectl.errors import EdgeError, Unauthorized, Unreachable, Usage
from edged.host.tls import show_certificate, trusting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edgectl.client.address import MqttAddress

DIAL_TIMEOUT_S = 5.0
CONNACK_TIMEOUT_S = 10.0  # a broker may ask a directory server first
SUBACK_TIMEOUT_S = 10.0
GOODBYE_TIMEOUT_S = 2.0
KEEPALIVE_S = 30
RECONNECT_S = (1, 8)  # first and longest pause between attempts
MAX_KEPT = 1024  # retained messages: one info for each node below a base
QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux

# Refusals that mean "who are you" in MQTT 5 (3.2.2.2) and 3.1.1 (3.2.2.3), in paho's words.
_AUTH_REASONS = frozenset(
    {"Not authorized", "Bad user name or password", "Banned", "Bad authentication method"}
)


class _PahoClient(paho.Client):
    """Acknowledges what the broker sends at once.

    Brokers hold a packet back until we acknowledge the one before, which the kernel would put off for 40 ms.
    The option is good for one packet (tcp(7)).
    """

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        outcome = super().loop_read(max_packets)
        stream: Any = self.socket()
        if stream is not None and QUICKACK is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                stream.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        return outcome


def _send_at_once(_client: paho.Client, _data: Any, stream: Any) -> None:
    """Every packet is a whole message: the kernel must not hold one back for the one before (RFC 896)."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _VersionRefused(Exception):
    """The broker does not speak the version that was tried."""


class Line:
    """A connection that is made again when it is lost, until it is closed.

    ``on_reply`` gets every message first and says whether it was one; ``on_up`` and ``on_down`` tell of
    the connection.
    """

    def __init__(
        self, address: MqttAddress, *, client: str, password: str | None, tls: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._client_id = client
        self._password = password
        self._tls = tls
        self._changed = threading.Condition()
        self._paho: paho.Client | None = None
        self._refusal = ""
        self._alert = ""  # why the broker ended TLS
        self._ended = False  # the connection that is being made was closed by the broker
        self._connected = False
        self._made = False  # there was a connection; from then on paho makes it again when it is lost
        self._filters: dict[str, int] = {}
        self._subacks: dict[int, list[str]] = {}
        self._refusals = Refusals()
        self._kept: dict[str, bytes] = {}
        self.on_reply: Callable[[str, bytes], bool] = lambda _topic, _payload: False
        self.on_up: Callable[[], None] = lambda: None
        self.on_down: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Connect with MQTT 5, or 3.1.1 where that is refused. Raises Unreachable or Unauthorized."""
        try:
            self._attempt(MQTTProtocolVersion.MQTTv5)
        except _VersionRefused:
            try:
                self._attempt(MQTTProtocolVersion.MQTTv311)
            except _VersionRefused:
                raise self._unreachable("the broker closes the connection at once") from None

    def subscribe(self, filters: Mapping[str, int]) -> None:
        """Subscribe now and after every reconnect; raises Unreachable when the broker will not have it."""
        self._filters.update(filters)
        mid = self._send_subscribe(self._client(), filters.items())
        with self._changed:
            if not self._changed.wait_for(lambda: mid in self._subacks, SUBACK_TIMEOUT_S):
                raise self._unreachable("the broker does not confirm the subscription")
            failed = [topic for topic, why in zip(filters, self._subacks.pop(mid), strict=False) if why]
        if failed:
            raise Unauthorized(
                f"the broker does not let this client hear {failed[0]}",
                hint="its access rules must allow <base>/<node>/{response,stream}/<client> and .../status",
            )

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        expiry_s: float | None = None,
        refused: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """Send at QoS 1, now or after the reconnect; ``refused`` hears why the broker will not have it.

        Only a broker that speaks MQTT 5 says so.
        """
        client = self._client()
        properties = None
        if expiry_s is not None and client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.PUBLISH, MessageExpiryInterval=max(1, math.ceil(expiry_s)))
        self._refusals.send(lambda: client.publish(topic, payload, qos=1, properties=properties).mid, refused)

    @property
    def kept(self) -> dict[str, bytes]:
        """A copy: topic → last payload, of everything that is no reply."""
        with self._changed:
            return dict(self._kept)

    def wait_for(self, what: Callable[[Mapping[str, bytes]], bool], timeout_s: float) -> bool:
        """Wait until ``what`` holds for the kept messages; whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: what(self._kept), timeout_s)

    def close(self) -> None:
        """Say goodbye, for a bounded time, and end the thread; may be called twice."""
        client, self._paho = self._paho, None
        if client is None:
            return
        client.disconnect()
        with self._changed:
            gone = self._changed.wait_for(lambda: not self._connected, GOODBYE_TIMEOUT_S)
        stream = client.socket()
        if not gone and isinstance(stream, socket.socket):
            with contextlib.suppress(OSError):  # a peer that takes nothing more is cut off
                stream.shutdown(socket.SHUT_RDWR)
        client.loop_stop()

    # --- making a connection ------------------------------------------------------------------

    def _attempt(self, version: MQTTProtocolVersion) -> None:
        client = self._build(version)
        self._paho, self._refusal, self._ended = client, "", False
        try:
            self._dial(client)
            client.loop_start()
            with self._changed:
                done = self._changed.wait_for(lambda: self._connected or self._ended, CONNACK_TIMEOUT_S)
            self._check_outcome(version, done=done)
        except BaseException:
            self.close()
            raise

    def _check_outcome(self, version: MQTTProtocolVersion, *, done: bool) -> None:
        if self._connected:
            return
        self._check_alert(self._alert)
        if not done:
            raise self._unreachable("something is there, but it does not answer as a broker does")
        if self._refusal in _AUTH_REASONS:
            raise Unauthorized(
                f"the broker at {self._address} refuses this client: {self._refusal.lower()}",
                hint="name the user in the address (mqtt://USER@HOST) and its password file with --key-file",
            )
        if self._refusal and version != MQTTProtocolVersion.MQTTv5:
            raise self._unreachable(f"the broker refuses this client: {self._refusal.lower()}")
        raise _VersionRefused  # brokers that know no MQTT 5 say so, or just close

    def _check_alert(self, text: str) -> None:
        """Raises Unauthorized when the broker ended TLS over our certificate."""
        if "ALERT" in text and re.search("CERTIFICATE|UNKNOWN_CA|HANDSHAKE", text):
            raise Unauthorized(
                f"the broker at {self._address} wants a certificate of this client, or another one",
                hint="--cert-file and --cert-key-file name it; the broker's log says what it trusts",
            )

    def _dial(self, client: paho.Client) -> None:
        options: dict[str, Any] = {}
        if client.protocol == MQTTProtocolVersion.MQTTv5:
            options["clean_start"] = True
        try:
            client.connect(self._address.host, self._address.port, KEEPALIVE_S, **options)
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(
                f"the broker at {self._address} is not trusted: certificate verify failed"
                f" ({error.verify_message})",
                hint="--ca-file names the authority that signed it; the address must be a name in it",
            ) from None
        except ssl.SSLError as error:
            self._check_alert(error.reason or "")
            raise self._unreachable(f"TLS failed ({error.reason or error})") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise self._unreachable(reason) from None

    def _build(self, version: MQTTProtocolVersion) -> paho.Client:
        client = _PahoClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=version,
            clean_session=None if version == MQTTProtocolVersion.MQTTv5 else True,
        )
        client.connect_timeout = DIAL_TIMEOUT_S
        client.reconnect_delay_set(*RECONNECT_S)
        if self._address.username or self._password:
            client.username_pw_set(self._address.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_log = self._on_log
        client.on_socket_open = _send_at_once
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _unreachable(self, reason: str) -> EdgeError:
        return Unreachable(
            f"no connection to the broker at {self._address}: {reason}",
            hint="is the broker running, and are host, port and mqtt:// or mqtts:// right?",
        )

    def _client(self) -> paho.Client:
        if self._paho is None:
            raise Usage("this client is closed", hint="make a new EdgeClient")
        return self._paho

    def _send_subscribe(self, client: paho.Client, filters: Iterable[tuple[str, int]]) -> int:
        modern = client.protocol == MQTTProtocolVersion.MQTTv5
        asked: list[Any] = [(topic, SubscribeOptions(qos=qos) if modern else qos) for topic, qos in filters]
        _, mid = client.subscribe(asked)
        return -1 if mid is None else mid

    # --- what paho's thread tells -------------------------------------------------------------

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        with self._changed:
            if reason.is_failure:
                self._refusal = str(reason)
            else:
                self._connected = self._made = True
            self._changed.notify_all()
        if not reason.is_failure and self._filters:
            self._send_subscribe(client, self._filters.items())
            self.on_up()

    def _on_disconnect(self, client: paho.Client, *_details: Any) -> None:
        if not self._made:
            client.disconnect()  # a first attempt that failed is not repeated here
        with self._changed:
            was, self._connected, self._ended = self._connected, False, True
            self._changed.notify_all()
        if was:
            self.on_down()

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        with self._changed:
            self._subacks[mid] = [str(reason) if reason.is_failure else "" for reason in reasons]
            self._changed.notify_all()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        if self.on_reply(topic, bytes(message.payload)):
            return
        with self._changed:
            if topic in self._kept or len(self._kept) < MAX_KEPT:
                self._kept[topic] = bytes(message.payload)
            self._changed.notify_all()

    def _on_log(self, _client: Any, _data: Any, _level: Any, text: str) -> None:
        # With TLS 1.3 the broker judges a certificate after the handshake, and paho tells it here alone.
        if "ALERT" in text:
            self._alert = text

    def _on_socket_close(self, _client: Any, _data: Any, stream: Any) -> None:
        # Where our first packet could not be written any more, the alert lies unread.
        if isinstance(stream, ssl.SSLSocket) and not self._connected:
            try:
                stream.recv(1)
            except ssl.SSLError as error:
                self._alert = self._alert or error.reason or ""
            except OSError:
                pass

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._refusals.acknowledged(mid, str(reason) if reason.is_failure else "")


def _properties(packet: int, **values: Any) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def tls_context(
    ca_file: str | None, cert_file: str | None = None, cert_key_file: str | None = None
) -> ssl.SSLContext:
    """TLS from 1.2 on, the broker's name checked; raises Usage when a file cannot be used."""
    try:
        made = trusting(ca_file)
    except OSError as error:
        raise Usage(f"the CA file {ca_file} cannot be used: {error}") from None
    if cert_file:
        try:
            show_certificate(made, cert_file, cert_key_file)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise Usage(
                f"the certificate {cert_file} with {cert_key_file or 'its key'} cannot be used: {reason}",
                hint="both are PEM files, the key without a password",
            ) from None
    return made


def unique_id(client: str, *, shared: bool) -> str:
    """The MQTT client identifier: two connections with the same one throw each other out."""
    return f"{client}-{secrets.token_hex(3)}" if shared else client
