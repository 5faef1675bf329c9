"""Decoding an answer that must fit a JSON schema against decoding freely."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from tests.bench.conditions import EDGED, LLAMA_SERVER, Conditions
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import chat
from tests.bench.models import SMOLLM2
from tests.bench.options import say
from tests.bench.servers import Edged, edged_and_llama_server, kernels, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.models import Model
    from tests.bench.options import Options
    from tests.bench.peers.servers import Peer

TOKENS = 128
WARM_TOKENS = 16  # llama-server holds the first few back
ROUNDS = 7
LEAST = 0.9

# Long enough for every answer: numbers and names of a list, as a program would ask for them.
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "items": {
            "type": "array",
            "minItems": 24,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["name", "count"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["title", "items"],
    "additionalProperties": False,
}
# All tokens are equally likely to the replica. Where a schema leaves no choice, almost none of them would
# fit, and a search through the whole vocabulary be measured, which a model that knows JSON needs rarely.
PLAIN = {"type": "string"}


def run(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2", "replica"):
        yield _bench(options, model)


def _bench(options: Options, model: Model) -> Report:
    tokens = options.count(TOKENS, 16)
    conditions = Conditions(model=model.path, context=512, slots=1, threads=options.threads)
    report = Report(
        scenario="grammar",
        title=f"{tokens} tokens under a JSON schema and free: {model.name}",
        settings=conditions.describe(),
    )
    speed = report.figure(
        "decode speed", "tok/s",
        Ratio(of=_name(EDGED), to=EDGED, at_least=LEAST), Ratio(of=_name(LLAMA_SERVER), to=LLAMA_SERVER),
    )  # fmt: skip
    servers: list[Edged | Peer] = [Edged(options.folder, conditions)]
    if model.name == SMOLLM2:
        servers = edged_and_llama_server(options, conditions)
    else:
        report.note(
            "the schema is that of a string, since a replica cannot prefer what a schema wants; llama-server "
            "finds no form in the replica's answers and ends with an error"
        )
    fresh = count()
    with started(*servers):
        report.settings |= kernels(servers)
        for server in servers:
            chat(server, _body(model, next(fresh), WARM_TOKENS, free=False))
        for number in range(options.rounds_of(ROUNDS)):
            say(f"round {number + 1}: {report.title}")
            for server in servers:
                for name, free in ((server.name, True), (_name(server.name), False)):
                    stream = chat(server, _body(model, next(fresh), tokens, free=free))
                    speed.add(name, stream.decode_tps)
                    if stream.tokens < tokens:
                        report.note(f"{name}: some answers ended before {tokens} tokens")
    return report


def _name(server: str) -> str:
    return f"{server}, schema"


def _body(model: Model, number: int, tokens: int, *, free: bool) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": model.question(number)}], "max_tokens": tokens}
    schema = SCHEMA if model.name == SMOLLM2 else PLAIN
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return body if free else {**body, "response_format": form}
