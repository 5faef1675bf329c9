"""What box and bus add to the engine's first token, and the CPU they spend on each streamed one.

The engine is the scripted one. Its own time to a first token is that of its decode loop in this process, with
nothing around it; the daemon's is from sending a request, on a connection that is there, to the first message
with text.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import secrets
import time
from statistics import median
from typing import TYPE_CHECKING

from edgectl.client import EdgeClient
from edged.ipc.messages import Token
from tests.bench.errors import BenchError
from tests.bench.figures import Report
from tests.bench.http_client import chat
from tests.bench.options import say
from tests.bench.scenarios.flood import cpu_s
from tests.integration.broker import MOSQUITTO, Broker
from tests.kit.daemon import running_daemon
from tests.kit.fake_stage import Stage
from tests.kit.mqtt_crowd import Member
from tests.kit.service import fake_model, fake_tree, long_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.http_client import Stream
    from tests.bench.options import Options
    from tests.kit.daemon import Daemon

ROUNDS = 60
STEP_S = 0.02
FAST_STEP_S = 0.002  # of the long answers: the CPU that a token costs does not depend on it
TOKENS = 4000
MQTT, HTTP = "MQTT", "HTTP"
ADDED_MS = {MQTT: 5.0, HTTP: 3.0}
SLOW_BROKER = "MQTT, broker without set_tcp_nodelay"
CLIENT = "edgectl.client over MQTT"
SLOW_BROKER_CLIENT = "edgectl.client, broker without set_tcp_nodelay"
LIMIT_S = 60.0


def run(options: Options) -> Iterator[Report]:
    if MOSQUITTO is None:
        raise BenchError("mosquitto is not installed")
    yield _latency(options)
    yield _cost(options)


class HttpServer:
    """A daemon as the HTTP client of the bench knows servers."""

    name = "edged"

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.port = daemon.port

    def body(self, fields: dict) -> dict:
        return fields

    def log(self) -> str:
        return self._daemon.log


class MqttClient:
    """One connection; ``stream`` asks and returns when the first piece of the answer and its end came."""

    def __init__(self) -> None:
        self._member = Member("bench")
        self._run = secrets.token_hex(4)  # an id that was answered before would be answered from memory
        self._count = 0

    async def connect(self, port: int) -> None:
        await self._member.connect(port, ("edged/box/stream/bench", "edged/box/response/bench/chat"))

    def close(self) -> None:
        self._member.close()

    async def stream(self, max_tokens: int, *, stream: bool = True) -> tuple[float, float, int]:
        """Seconds to the first piece with text and to the end, and how many pieces came."""
        self._count += 1
        member, name = self._member, f"{self._run}-{self._count}"
        member.heard.clear()
        body = {"id": name, "prompt": f"question {name}", "stream": stream, "max_tokens": max_tokens}
        sent = time.monotonic()
        member.publish("edged/box/request/bench/chat", json.dumps(body).encode())
        async with asyncio.timeout(LIMIT_S):
            while not member.heard or "/response/" not in member.heard[-1][1]:
                member.news.clear()
                await member.news.wait()
        if not json.loads(member.heard[-1][2])["ok"]:
            raise BenchError(f"edged answered over MQTT: {member.heard[-1][2]!r}")
        pieces = [when for when, _, payload in member.heard if json.loads(payload).get("delta")]
        first = pieces[0] if pieces else member.heard[-1][0]
        return first - sent, member.heard[-1][0] - sent, len(pieces)


def _latency(options: Options) -> Report:
    rounds = options.rounds_of(ROUNDS) if not options.quick else 3
    report = Report(
        scenario="latency",
        title="What is added to the engine's first token on loopback",
        settings={"engine": f"scripted, {STEP_S * 1000:.0f} ms a step", "rounds": str(rounds)},
    )
    report.note(
        "mosquitto holds small packets back for one that a client has not acknowledged unless its"
        " configuration says set_tcp_nodelay true; both are measured"
    )
    added = report.figure("from the request to the first text, less the engine's own", "ms")
    added.at_most = dict(ADDED_MS)
    say(report.title)
    own = [_own_s(number) for number in range(rounds)]
    report.figure("the engine's own first token", "ms").add("decode loop alone", median(own) * 1000)
    brokers = ((MQTT, CLIENT, ("set_tcp_nodelay true",)), (SLOW_BROKER, SLOW_BROKER_CLIENT, ()))
    for name, client, lines in brokers:
        with _daemon(options, STEP_S, *lines) as (daemon, port):
            found = asyncio.run(_over_mqtt(port, rounds))
            added.add(name, (median(found) - median(own)) * 1000)
            added.add(client, (median(_over_client(port, rounds)) - median(own)) * 1000)
            if name == MQTT:
                added.add(HTTP, (median(_over_http(daemon.port, rounds)) - median(own)) * 1000)
    return report


def _cost(options: Options) -> Report:
    tokens = options.count(TOKENS, 200)
    report = Report(
        scenario="latency",
        title=f"CPU of the supervisor for a streamed token, of {tokens}",
        settings={"engine": f"scripted, {FAST_STEP_S * 1000:.0f} ms a step"},
    )
    cost = report.figure("CPU a token", "µs")
    with _daemon(options, FAST_STEP_S, "set_tcp_nodelay true", answer=long_text(tokens)) as (daemon, port):
        ways: dict[str, Callable[[], object]] = {
            HTTP: lambda: _http(daemon, tokens),
            MQTT: lambda: asyncio.run(_one_over_mqtt(port, tokens, stream=True)),
            "MQTT, not streamed": lambda: asyncio.run(_one_over_mqtt(port, tokens, stream=False)),
        }
        for name, way in ways.items():
            say(f"{name}: {report.title}")
            way()  # what is loaded at the first request is
            before = cpu_s(daemon.pid)
            way()
            cost.add(name, (cpu_s(daemon.pid) - before) / tokens * 1e6)
    return report


@contextlib.contextmanager
def _daemon(
    options: Options, step_s: float, *lines: str, answer: str = "0123456789"
) -> Iterator[tuple[Daemon, int]]:
    """A daemon with the scripted engine, and the port of its broker, whose configuration has ``lines``."""
    with Broker(options.folder, "allow_anonymous true", *lines) as broker:
        tree = fake_tree(
            fake_model(options.folder, answer=answer, step_s=step_s),
            model={"slots": 1, "context": 2 * TOKENS},
            limits={"max_tokens": TOKENS},
            mqtt={"enabled": True, "port": broker.port},
        )
        with running_daemon(tree, options.folder) as daemon:
            yield daemon, broker.port


def _own_s(number: int) -> float:
    """Seconds until the decode loop, alone in this process, has its first token."""
    stage = Stage(slots=1, ubatch=64, context=2 * TOKENS, answer="0123456789", step_s=STEP_S)
    began = time.monotonic()
    stage.start(1, f"question {number}", max_tokens=3)
    while not any(isinstance(message, Token) for message in stage.said):
        stage.turn()
    return time.monotonic() - began


async def _over_mqtt(port: int, rounds: int) -> list[float]:
    client = MqttClient()
    await client.connect(port)
    try:
        return [(await client.stream(3))[0] for _ in range(rounds + 2)][2:]
    finally:
        client.close()


async def _one_over_mqtt(port: int, tokens: int, *, stream: bool) -> None:
    client = MqttClient()
    await client.connect(port)
    try:
        await client.stream(tokens, stream=stream)
    finally:
        client.close()


def _over_client(port: int, rounds: int) -> list[float]:
    """As programs do it, through the library that comes with edgectl."""
    found = []
    with EdgeClient(f"mqtt://127.0.0.1:{port}/edged/box") as client:
        for number in range(rounds + 2):
            sent = time.monotonic()
            with client.stream(f"number {number}", max_tokens=3) as stream:
                pieces = iter(stream)
                next(pieces)
                found.append(time.monotonic() - sent)
                for _ in pieces:  # to its end: a request that is given up ends with a step of its own
                    pass
    return found[2:]


def _over_http(port: int, rounds: int) -> list[float]:
    """On one connection that is kept, as client libraries do."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    found = []
    for number in range(rounds + 2):
        asked = {
            "stream": True,
            "max_tokens": 3,
            "messages": [{"role": "user", "content": f"number {number}"}],
        }
        payload = json.dumps(asked)
        sent = time.monotonic()
        connection.request("POST", "/v1/chat/completions", payload, {"content-type": "application/json"})
        answer = connection.getresponse()
        while b'"content":"0' not in (line := answer.readline()):
            if not line:
                raise BenchError("edged answered without text over HTTP")
        found.append(time.monotonic() - sent)
        answer.read()
    connection.close()
    return found[2:]


def _http(daemon: Daemon, tokens: int) -> Stream:
    asked = {"messages": [{"role": "user", "content": f"question {time.monotonic()}"}]}
    return chat(HttpServer(daemon), {**asked, "max_tokens": tokens})
