"""One stream through the daemon, over HTTP and over MQTT, against the bare decode loop of the same engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.demo.broker import start_broker
from tests.bench.bare_loop import BareLoop
from tests.bench.conditions import Conditions
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import chat
from tests.bench.mqtt_client import MqttClient
from tests.bench.options import say
from tests.bench.servers import Edged, started
from tests.kit.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.models import Model
    from tests.bench.options import Options

BARE, HTTP, MQTT = "bare loop", "edged over HTTP", "edged over MQTT"
SINGLY = "over HTTP, each token by itself"
TOKENS = 192
ROUNDS = 7
LEAST = 0.97


def run(options: Options) -> Iterator[Report]:
    port = free_port()
    broker = start_broker(options.folder, port)
    try:
        for model in options.open_models("smollm2", "replica"):
            report = _bench(options, model, port, "3.1.1" if broker.name == "amqtt" else "5")
            report.settings["broker"] = broker.name
            if broker.name == "amqtt":
                report.note("amqtt is written in Python and takes CPU from the decode threads: use mosquitto")
            yield report
    finally:
        broker.stop()


def _bench(options: Options, model: Model, port: int, version: str) -> Report:
    tokens = options.count(TOKENS, 12)
    conditions = Conditions(model=model.path, context=512, slots=1, threads=options.threads)
    report = Report(
        scenario="stream",
        title=f"One stream of {tokens} tokens: {model.name}",
        settings=conditions.describe(),
    )
    speed = report.figure(
        "decode speed", "tok/s",
        Ratio(of=HTTP, to=BARE, at_least=LEAST), Ratio(of=MQTT, to=BARE, at_least=LEAST),
        Ratio(of=SINGLY, to=BARE),
    )  # fmt: skip
    first = report.figure("time to first token", "s")
    report.note(
        "the daemon has the beginning of every prompt from the one before; the bare loop reads all of it"
    )
    edged = Edged(options.folder, conditions, {"mqtt": {"enabled": True, "port": port, "version": version}})
    singly = Edged(options.folder, conditions, {"limits": {"stream_interval_ms": 0}}, name="edged singly")
    with started(edged, singly), BareLoop(conditions) as bare, MqttClient(port, "bench") as mqtt:
        prompt_tokens = chat(edged, _body(model, 0, 2)).prompt_tokens
        mqtt.chat(_body(model, 1, 2))
        chat(singly, _body(model, 0, 2))
        bare.run(list(range(100, 100 + prompt_tokens)), 2)
        for number in range(options.rounds_of(ROUNDS)):
            say(f"round {number + 1}: {report.title}")
            alone = bare.run(list(range(100, 100 + prompt_tokens)), tokens)
            speed.add(BARE, alone["decode_tps"])
            first.add(BARE, alone["first_s"])
            # Another question for each, so that nothing of it has been evaluated before.
            ways = (
                (HTTP, lambda body: chat(edged, body)),
                (MQTT, mqtt.chat),
                (SINGLY, lambda body: chat(singly, body)),
            )
            for offset, (name, ask) in enumerate(ways):
                stream = ask(_body(model, 3 * number + 2 + offset, tokens))
                speed.add(name, stream.decode_tps)
                first.add(name, stream.first_s)
    report.settings["prompt"] = f"about {prompt_tokens} tokens"
    return report


def _body(model: Model, number: int, tokens: int) -> dict:
    return {"messages": [{"role": "user", "content": model.question(number)}], "max_tokens": tokens}
