"""The client's MQTT transport."""

from __future__ import annotations

import contextlib
import enum
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from edgectl.client import mqtt_wire as wire
from edgectl.client.ordering import OrderedText
from edgectl.client.port import expired
from edgectl.errors import NotFound, Unauthorized, Unhealthy, Unreachable
from edged.api.errors import EdgeError
from edged.api.events import Channel, Delta, Finished
from edged.api.status import Info
from edged.api.topics import NodeTopics

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from edgectl.client.address import MqttAddress
    from edgectl.client.mqtt_line import Line
    from edged.api.events import Event
    from edged.api.requests import Request
    from edged.api.status import Status

PRESENCE_S = 3.0  # a broker sends what it retains right after the subscription
HEALTH_S = 0.5  # comes with the status, but may be missing
DISCOVERY_S = 1.0  # there is no mark at the end of what is retained, so this long is listened
RECONNECT_PATIENCE_S = 20.0  # four attempts of paho; an answer under way survives a restart of the broker
MAX_WAITING = 4096  # streamed pieces nobody has read yet; more are dropped, and the final answer has them


def _pool_serves(kept: Mapping[str, bytes], root: str) -> bool:
    """Whether a box of the pool at ``root`` says that it takes work."""
    boxes = (payload for topic, payload in kept.items() if topic.startswith(f"{root}/box/"))
    return any(b'"serving"' in payload for payload in boxes)


class _Link(enum.Enum):
    """What happened to the connection."""

    UP = enum.auto()
    DOWN = enum.auto()
    CLOSED = enum.auto()


class _Pending:
    """A request that is under way, and what has been heard about it and not yet been looked at."""

    def __init__(self, request: Request, topic: str, payload: bytes, expiry_s: float | None) -> None:
        self.id = request.id
        self.topic = topic
        self.payload = payload
        self.expiry_s = expiry_s
        # (topic, payload) of a reply · the connection came or went · text: why the broker refused it
        self.inbox: queue.SimpleQueue[tuple[str, bytes] | _Link | str] = queue.SimpleQueue()


class MqttTransport:
    """See :class:`edgectl.client.port.Transport`.

    Requests go out at QoS 1. After a reconnect those still open are sent again, byte for byte; the box
    knows them and computes nothing twice.
    """

    def __init__(
        self,
        address: MqttAddress,
        *,
        client: str,
        shared: bool,
        password: str | None,
        ca_file: str | None,
        cert_file: str | None = None,
        cert_key_file: str | None = None,
    ) -> None:
        self._address = address
        self._client = client
        self._shared = shared
        self._password = password
        self._tls_files = (ca_file, cert_file, cert_key_file)
        self._opening = threading.Lock()
        self._line: Line | None = None
        self._topics = NodeTopics(address.base, address.node)
        self._pending: dict[str, _Pending] = {}

    def submit(self, request: Request, *, stream: bool, timeout_s: float) -> Generator[Event, None, None]:
        line = self._ready_line()
        self._check_presence(line)
        payload = wire.payload(request, stream=stream)
        # The box takes the expiry for the time it has; a stream may take any time while pieces come.
        expiry_s = request.ttl_s or (None if stream else timeout_s)
        pending = _Pending(request, self._topics.request(self._client, request.op), payload, expiry_s)
        self._pending[request.id] = pending
        over = False
        try:
            self._send(line, pending)
            for event in self._events(pending, timeout_s, stream=stream):
                over = isinstance(event, Finished)
                yield event
        except _BoxFailed as failed:
            over = True
            raise failed.error from None
        finally:
            self._pending.pop(request.id, None)
            if not over:
                self._cancel(line, request.id)

    def status(self, timeout_s: float) -> Status:
        """What `health` and `info` tell; ``pid`` 0 marks that the rest is not told over MQTT."""
        line = self._ready_line()
        self._check_presence(line)
        info = self._kept(line, self._topics.info, Info, timeout_s)
        health = self._kept(line, self._topics.health, wire.Health, timeout_s)
        online = line.kept.get(self._topics.status) == b"online"
        return wire.status(info, health, online=online, topic=self._topics.root)

    def info(self, timeout_s: float) -> Info:
        line = self._ready_line()
        self._check_presence(line)
        info: Info = self._kept(line, self._topics.info, Info, timeout_s)
        return info

    def close(self) -> None:
        with self._opening:
            line, self._line = self._line, None
        if line is None:
            return
        for pending in tuple(self._pending.values()):
            self._cancel(line, pending.id)
            pending.inbox.put(_Link.CLOSED)
        line.close()

    # --- the connection -------------------------------------------------------------------

    def _ready_line(self) -> Line:
        with self._opening:
            if self._line is None:
                self._line = self._open()
            return self._line

    def _open(self) -> Line:
        from edgectl.client.mqtt_line import Line, tls_context, unique_id

        line = Line(
            self._address,
            client=unique_id(self._client, shared=self._shared),
            password=self._password,
            tls=tls_context(*self._tls_files) if self._address.tls else None,
        )
        line.on_reply, line.on_up, line.on_down = self._heard, self._up, self._down
        line.open()
        try:
            if not self._topics.node:
                self._topics = msgspec.structs.replace(self._topics, node=self._find_node(line))
            topics = self._topics
            line.subscribe(
                {
                    topics.status: 1,
                    topics.info: 1,
                    topics.health: 0,
                    topics.response(self._client, "+"): 1,
                    topics.stream(self._client): 0,
                }
            )
        except BaseException:
            line.close()
            raise
        return line

    def _find_node(self, line: Line) -> str:
        """The only node below the base; raises NotFound listing what there is instead."""
        base = self._address.base
        line.subscribe({NodeTopics(base, "+").info: 1})
        line.wait_for(lambda _kept: False, DISCOVERY_S)
        nodes = sorted(topic.removeprefix(f"{base}/").removesuffix("/info") for topic in line.kept)
        if len(nodes) == 1:
            return nodes[0]
        if not nodes:
            raise NotFound(
                f"no edged is known to the broker at {self._address} below {base!r}",
                hint="is mqtt.enabled on the box, with this broker and base? `edgectl status` there tells",
            )
        raise NotFound(
            f"{len(nodes)} boxes are at this broker: {', '.join(nodes)}",
            hint=f"name one in the address: {self._address}/{base}/{nodes[0]}",
        )

    def _check_presence(self, line: Line) -> None:
        """Raises Unreachable when the box is off; a request to it would wait for its next start."""
        topics = self._topics
        if _pool_serves(line.kept, topics.root):
            return
        line.wait_for(lambda kept: topics.status in kept, PRESENCE_S)
        said = line.kept.get(topics.status)
        if said == b"online":
            return
        if said is None:
            with contextlib.suppress(Unauthorized):
                line.subscribe({f"{topics.root}/box/+": 0})  # what is no box may be a pool of them
            if line.wait_for(lambda kept: _pool_serves(kept, topics.root), HEALTH_S):
                return
            raise Unreachable(
                f"the broker at {self._address} knows no edged at {topics.root}",
                hint="check the node's name; an address without a node finds the only one there is",
            )
        line.wait_for(lambda kept: topics.health in kept, HEALTH_S)
        health = line.kept.get(topics.health)
        if health is None or _decoded(health, wire.Health).state != "loading":
            raise Unreachable(
                f"edged on {topics.node} is offline; the broker at {self._address} is up",
                hint="on the box, `edgectl status` says why",
            )

    def _kept(self, line: Line, topic: str, kind: type[Any], timeout_s: float) -> Any:
        if not line.wait_for(lambda kept: topic in kept, min(timeout_s, PRESENCE_S)):
            raise Unreachable(
                f"nothing is published at {topic}", hint="on the box, `edgectl status` says why"
            )
        return _decoded(line.kept[topic], kind)

    # --- one request ----------------------------------------------------------------------

    def _send(self, line: Line, pending: _Pending) -> None:
        expiry_s, refused = pending.expiry_s, pending.inbox.put
        line.publish(pending.topic, pending.payload, expiry_s=expiry_s, refused=refused)

    def _events(self, pending: _Pending, timeout_s: float, *, stream: bool) -> Generator[Event, None, None]:
        ordered: dict[Channel, OrderedText] = {"reasoning": OrderedText(), "text": OrderedText()}
        parts = wire.Parts(pending.id)
        seq = 0
        for topic, payload in self._messages(pending, timeout_s):
            final: Finished | None = None
            new: dict[Channel, str] = {}
            if topic != self._topics.stream(self._client):
                final = self._part(parts, payload)
                if final is not None and stream:  # a thought may have had no room in the answer
                    new["reasoning"] = ordered["reasoning"].finish(final.reasoning) if final.reasoning else ""
                    new["text"] = ordered["text"].finish(final.text)
            elif isinstance(found := wire.told(payload, pending.id), Delta):
                new[found.channel] = ordered[found.channel].add(found.seq, found.text)
            elif found is not None:
                yield found
            for channel, text in new.items():
                if text:
                    yield Delta(id=pending.id, seq=seq, text=text, channel=channel)
                    seq += 1
            if final is not None:
                yield final
                return

    def _part(self, parts: wire.Parts, payload: bytes) -> Finished | None:
        try:
            return parts.add(payload)
        except Unhealthy:
            raise
        except EdgeError as error:
            raise _BoxFailed(error) from None

    def _messages(self, pending: _Pending, timeout_s: float) -> Iterator[tuple[str, bytes]]:
        """What is heard about ``pending``; raises Expired or Unreachable when that ends."""
        connected = True
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                heard = pending.inbox.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise self._silence(timeout_s, connected=connected) from None
            if heard is _Link.CLOSED:
                raise Unreachable("the client was closed before the answer was there")
            if isinstance(heard, str):
                raise self._not_taken(heard)
            now_s = time.monotonic()
            if isinstance(heard, _Link):
                connected = heard is _Link.UP
                deadline_s = now_s + (timeout_s if connected else min(timeout_s, RECONNECT_PATIENCE_S))
                continue
            deadline_s = now_s + timeout_s
            yield heard

    def _silence(self, timeout_s: float, *, connected: bool) -> EdgeError:
        if not connected:
            return Unreachable(
                f"the connection to the broker at {self._address} was lost and did not come back",
                hint="is the broker running?",
            )
        return expired(timeout_s)

    def _not_taken(self, why: str) -> EdgeError:
        return Unreachable(
            f"the broker at {self._address} did not take the request: {why.lower()}",
            hint="its access rules must let this client publish to <base>/<node>/request/<client>/#",
        )

    def _cancel(self, line: Line, request_id: str) -> None:
        with contextlib.suppress(EdgeError, ValueError):  # closed before: the box will expire it
            line.publish(self._topics.cancel(self._client), request_id.encode())

    # --- called by the connection's thread ------------------------------------------------

    def _heard(self, topic: str, payload: bytes) -> bool:
        streamed = topic == self._topics.stream(self._client)
        if not (streamed or topic.startswith(self._topics.response(self._client, ""))):
            return False
        pending = self._pending.get(wire.request_id(payload) or "")
        if pending is not None and (not streamed or pending.inbox.qsize() < MAX_WAITING):
            pending.inbox.put((topic, payload))
        return True

    def _up(self) -> None:
        line = self._line
        for pending in tuple(self._pending.values()):
            pending.inbox.put(_Link.UP)
            if line is not None:
                self._send(line, pending)

    def _down(self) -> None:
        for pending in tuple(self._pending.values()):
            pending.inbox.put(_Link.DOWN)


class _BoxFailed(Exception):
    """The box itself ended the request; there is nothing left to cancel."""

    def __init__(self, error: EdgeError) -> None:
        super().__init__(error.message)
        self.error = error


def _decoded(payload: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unhealthy(
            f"what the box publishes cannot be read: {error}", hint="are edgectl and edged of one version?"
        ) from None
