"""One connection to the broker: paho-mqtt driven by the event loop, used once and thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged.transports.mqtt import paho_client, tls
from edged.transports.mqtt.endpoint import no_answer, unreachable
from edged.transports.mqtt.errors import BrokerUnreachable, refused
from edged.transports.mqtt.incoming import Incoming, from_paho

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from paho.mqtt.properties import Properties

    from edged.api.errors import EdgeError
    from edged.transports.mqtt.endpoint import Endpoint

log = logging.getLogger(__name__)

CONNACK_TIMEOUT_S = 10.0  # mosquitto asks its password plugin, which may ask a directory server
PUBACK_TIMEOUT_S = 20.0  # a slow link with a full send buffer; beyond it the connection is taken for dead
GOODBYE_TIMEOUT_S = 2.0  # the DISCONNECT is 4 bytes; a peer that does not take them is gone
QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux
TEMPORARY = {"Unspecified error", "Implementation specific error", "Quota exceeded"}  # in a PUBACK
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # before the next try, where a PUBACK says one of them
MOST_REFUSED = 8  # topics that are named; the first ones tell which rule of the broker is missing
TOPIC_BYTES = 65536  # a broker's limit may be on the payload alone
TOO_LARGE_HINT = (
    "with MQTT 3.1.1 the broker must keep such messages back: `message_size_limit 16777216` of mosquitto. "
    'What it holds already goes with mqtt.version = "5" once'
)


class Connection:
    """From CONNECT to the end of one TCP connection; another attempt needs another object.

    All methods belong to the event loop's thread; only the dialling, which blocks, runs in its own.
    """

    def __init__(self, endpoint: Endpoint, on_message: Callable[[Connection, Incoming], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._on_message = on_message
        self._fd = -1
        self._tick: asyncio.TimerHandle | None = None
        self._alert: EdgeError | None = None  # why the broker ended TLS
        self._connack: asyncio.Future[bool] = self._loop.create_future()
        self._pubacks: dict[int, asyncio.Future[str]] = {}
        self._subacks: dict[int, asyncio.Future[list[bool]]] = {}
        self.closed: asyncio.Future[str] = self._loop.create_future()  # why
        self.hint = ""  # what to do about the end, where we know it
        self.max_packet_bytes: int | None = None  # the broker's, when it names one
        self.refused: dict[str, str] = {}  # topic → why the broker takes nothing of ours there
        self._stuck = False  # the socket had no room for all that was published
        self._client = self._build(endpoint)

    @property
    def version(self) -> str:
        return self._endpoint.version

    @property
    def alive(self) -> bool:
        return self._fd >= 0

    @property
    def congested(self) -> bool:
        """The socket has no room, so that packets wait here for longer than a turn of the loop."""
        return self._stuck

    async def open(self) -> bool:
        """Connect; True when the broker kept the session.

        Raises BrokerUnreachable (NoAnswer when there was a server but no CONNACK) or BrokerRefused.
        """
        try:
            await self._dial()
            stream: Any = self._client.socket()
            if stream is None:
                raise BrokerUnreachable("the connection was lost while it was made")
            self._fd = stream.fileno()
            # Every packet is a whole message: the kernel must not hold one back for the next (RFC 896).
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.add_reader(self._fd, self._readable)
            self._writable()
            self._keep_alive()
            return await asyncio.wait_for(asyncio.shield(self._connack), CONNACK_TIMEOUT_S)
        except TimeoutError:
            raise no_answer(f"no CONNACK in {CONNACK_TIMEOUT_S:.0f} s") from None
        finally:
            if not self._connack.done() or self._connack.cancelled() or self._connack.exception():
                self.abandon("it was never made")

    async def subscribe(self, filters: Iterable[tuple[str, int]]) -> list[str]:
        """Subscribe; the filters that the broker refused."""
        wanted = list(filters)
        asked: list[Any] = [
            (topic, SubscribeOptions(qos=qos) if self.version == "5" else qos) for topic, qos in wanted
        ]
        _, mid = self._client.subscribe(asked)
        if mid is None:
            return []
        self._subacks[mid] = self._loop.create_future()
        try:
            granted = await asyncio.wait_for(self._subacks[mid], PUBACK_TIMEOUT_S)
        except TimeoutError:
            self.abandon(f"the broker did not confirm the subscriptions in {PUBACK_TIMEOUT_S:.0f} s")
            return []
        finally:
            self._subacks.pop(mid, None)
        return [topic for (topic, _), good in zip(wanted, granted, strict=False) if not good]

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None
    ) -> bool:
        """Publish at QoS 0; False when there is no connection."""
        if not self.alive:
            return False
        properties = self._correlating(correlation)
        sent = self._client.publish(topic, payload, qos=0, retain=retain, properties=properties)
        return sent.rc == paho.MQTT_ERR_SUCCESS

    async def deliver(
        self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None
    ) -> str | None:
        """Publish at QoS 1 and wait for the PUBACK; again after a pause while its reason is a passing one.

        Returns "" when the broker took it, the broker's reason when it refused it for good (trying again
        would end the same), and None when the connection ended before either. Where something retained is
        refused is kept in ``refused``.
        """
        outcome = await self._publish(topic, payload, retain=retain, correlation=correlation)
        for pause_s in PAUSES_S:
            if outcome not in TEMPORARY:
                break
            await asyncio.wait({self.closed}, timeout=pause_s)
            outcome = await self._publish(topic, payload, retain=retain, correlation=correlation)
        if retain:
            self.note_refusal(topic, outcome)
        return outcome

    def note_refusal(self, topic: str, reason: str | None) -> None:
        """Keep what the broker said about ``topic``; empty: it took something there."""
        if reason == "":
            self.refused.pop(topic, None)
        elif reason is not None and topic not in self.refused and len(self.refused) < MOST_REFUSED:
            log.warning("mqtt broker refused what was published on %s: %s", topic, reason)
            self.refused[topic] = reason

    async def _publish(
        self, topic: str, payload: bytes, *, retain: bool, correlation: bytes | None
    ) -> str | None:
        if not self.alive:
            return None
        properties = self._correlating(correlation)
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            self.abandon(f"publishing failed: {paho.error_string(info.rc)}")
            return None
        answer: asyncio.Future[str] = self._loop.create_future()
        self._pubacks[info.mid] = answer
        ended = self.closed
        try:
            await asyncio.wait({answer, ended}, timeout=PUBACK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pubacks.pop(info.mid, None)
        if answer.done():
            return answer.result()
        if not ended.done():
            self.abandon(f"the broker did not confirm a message in {PUBACK_TIMEOUT_S:.0f} s")
        return None

    def _correlating(self, correlation: bytes | None) -> Properties | None:
        if correlation is None or self.version != "5":
            return None
        return paho_client.properties(PacketTypes.PUBLISH, CorrelationData=correlation)

    def acknowledge(self, mid: int) -> None:
        """PUBACK the message ``mid`` that this connection delivered."""
        if self.alive:
            self._client.ack(mid, 1)

    async def close(self) -> None:
        """DISCONNECT, so that the broker keeps the will to itself, then end the connection."""
        if self.alive:
            self._client.disconnect()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.closed), GOODBYE_TIMEOUT_S)
        self.abandon("closed here")

    def abandon(self, reason: str) -> None:
        """End the connection at once, without a DISCONNECT: the broker publishes the will."""
        self._unwatch()
        if self._tick is not None:
            self._tick.cancel()
        stream = self._client.socket()
        if stream is not None:
            stream.close()
        if not self._connack.done():
            self._connack.set_exception(self._alert or no_answer(reason))
            self._connack.exception()  # read here: nobody may be waiting for it any more
        for waiting in self._subacks.values():
            if not waiting.done():
                waiting.set_result([])
        if not self.closed.done():
            self.closed.set_result(reason)

    # --- paho's side ------------------------------------------------------------------------

    def _build(self, endpoint: Endpoint) -> paho.Client:
        client = paho_client.build(endpoint)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_log = self._logged
        client.on_socket_register_write = self._wants_write
        client.on_socket_close = self._socket_closes
        return client

    async def _dial(self) -> None:
        """The blocking part of connecting, in a daemon thread: the process may end while it waits."""
        done: asyncio.Future[EdgeError | None] = self._loop.create_future()

        def settle(outcome: EdgeError | None) -> None:
            if not done.done():
                done.set_result(outcome)

        def dial() -> None:
            outcome: EdgeError | None = None
            try:
                paho_client.connect(self._client, self._endpoint)
            except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
                outcome = unreachable(error, self._endpoint)
            stream = self._client.socket()
            if self.closed.done() and stream is not None:  # given up while it was made
                stream.close()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(settle, outcome)

        threading.Thread(target=dial, name="edged-mqtt-dial", daemon=True).start()
        failed = await done
        if failed is not None:
            raise failed

    def _readable(self) -> None:
        """Read what the socket has; with TLS also what was decrypted already and wakes no one."""
        try:
            stream = self._read()
            while stream is not None and hasattr(stream, "pending") and stream.pending():
                stream = self._read()
            if stream is not None and QUICKACK is not None:
                # Brokers hold packets back until we acknowledge the last, which we would put off for 40 ms;
                # the option is good for this once (tcp(7)).
                stream.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        except Exception as error:  # noqa: BLE001 - a task root: bytes of a peer pass through paho's parser
            self.abandon(f"the broker sent something that is not MQTT ({type(error).__name__})")

    def _read(self) -> Any:
        """Read once; the socket, None when the connection ended."""
        self._client.loop_read()
        # A broker of version 3.1.1 does not know our limit, and paho collects up to 256 MiB.
        coming = self._client._in_packet["remaining_length"]  # noqa: SLF001 - told nowhere else
        if coming > self._endpoint.max_packet_bytes + TOPIC_BYTES:
            self.hint = TOO_LARGE_HINT
            self.abandon(
                f"a message of {coming} bytes came, and this box takes "
                f"{self._endpoint.max_packet_bytes} at most"
            )
        return self._client.socket() if self.alive else None

    def _writable(self) -> None:
        if self._fd >= 0:
            self._client.loop_write()
        if self._fd >= 0:
            self._stuck = self._client.want_write()
            if self._stuck:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _keep_alive(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self._client.loop_misc()
        if self.alive:
            interval_s = max(1.0, self._client.keepalive / 4)
            self._tick = self._loop.call_later(interval_s, self._keep_alive)

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    def _wants_write(self, *_: Any) -> None:
        # While dialling (in another thread) the descriptor is not ours yet; open() writes what waits.
        if self._fd >= 0:
            # What is published in this turn of the loop leaves together. The socket has room nearly always:
            # asking it first costs two system calls and a turn for each message.
            self._loop.call_soon(self._writable)

    def _socket_closes(self, _c: Any, _u: Any, stream: Any) -> None:
        self._unwatch()
        if not self._connack.done() and self._alert is None:
            self._alert = tls.last_word(stream)

    def _connected(self, _c: Any, _u: Any, flags: Any, reason: Any, properties: Any) -> None:
        if self._connack.done():
            return
        if not reason.is_failure:
            self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
            self._connack.set_result(bool(flags.session_present))
            self._loop.call_soon(self._keep_alive)  # the broker may have named another interval
        else:
            self._connack.set_exception(refused(str(reason)))

    def _disconnected(self, _c: Any, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        self.abandon(str(reason))

    def _logged(self, _c: Any, _u: Any, _level: Any, text: str) -> None:
        # With TLS 1.3 the broker judges our certificate after the handshake, and paho tells it here alone.
        if "ALERT" in text:
            self._alert = tls.alert(text)

    def _message(self, _c: Any, _u: Any, message: Any) -> None:
        # paho holds a lock around its callbacks: whoever hears this must be free to publish.
        self._loop.call_soon(self._on_message, self, from_paho(message))

    def _published(self, _c: Any, _u: Any, mid: int, reason: Any, _p: Any) -> None:
        answer = self._pubacks.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(str(reason) if reason.is_failure else "")

    def _subscribed(self, _c: Any, _u: Any, mid: int, reasons: Any, _p: Any) -> None:
        answer = self._subacks.get(mid)
        if answer is not None and not answer.done():
            answer.set_result([not reason.is_failure for reason in reasons])
