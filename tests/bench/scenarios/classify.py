"""A choice of four from one forward pass against the same choice written as constrained JSON."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from tests.bench.conditions import Conditions
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import post
from tests.bench.models import SMOLLM2
from tests.bench.options import say
from tests.bench.servers import Edged, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.models import Model
    from tests.bench.options import Options

CLASSIFY, JSON, FREE = "classify", "constrained JSON", "eight free tokens"
FREE_TOKENS = 8  # of {"answer":"tell the owner"} in Qwen3.5's vocabulary, one more or less
CHOICES = ["nothing to do", "tell the owner", "call a technician", "switch it off"]
SYSTEM = "You watch the devices of a house. Say what is to be done about a report."
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": CHOICES}},
    "required": ["answer"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
REPORT_TOKENS = 24
ROUNDS = 15
MOST = 0.3


def run(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2", "replica"):
        yield _bench(options, model)


def _bench(options: Options, model: Model) -> Report:
    conditions = Conditions(model=model.path, context=512, slots=1, threads=options.threads)
    report = Report(
        scenario="classify",
        title=f"One of {len(CHOICES)} choices: {model.name}",
        settings=conditions.describe(),
    )
    real = model.name == SMOLLM2
    other, generate = (JSON, _generate) if real else (FREE, _generate_freely)
    took = report.figure(
        "time of one answer", "s", Ratio(of=CLASSIFY, to=other, at_most=MOST if real else None)
    )
    if not real:
        report.note(f"a replica cannot write JSON by itself; {FREE} have no target")
    edged = Edged(options.folder, conditions)
    fresh = count()
    with started(edged):
        _classify(edged, _messages(model, next(fresh)))
        generate(edged, _messages(model, next(fresh)))
        say(report.title)
        for _ in range(options.rounds_of(ROUNDS)):
            # Another report for each: only the system prompt has been evaluated before.
            took.add(CLASSIFY, _classify(edged, _messages(model, next(fresh))))
            took.add(other, generate(edged, _messages(model, next(fresh))))
    return report


def _messages(model: Model, seed: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": model.text(REPORT_TOKENS, seed)},
    ]


def _classify(edged: Edged, messages: list[dict[str, str]]) -> float:
    _, took_s = post(edged, "/v1/classify", {"messages": messages, "choices": CHOICES})
    return took_s


def _generate(edged: Edged, messages: list[dict[str, str]]) -> float:
    body = {"messages": messages, "max_tokens": 32, "temperature": 0, "response_format": FORMAT}
    _, took_s = post(edged, "/v1/chat/completions", body)
    return took_s


def _generate_freely(edged: Edged, messages: list[dict[str, str]]) -> float:
    body = {"messages": messages, "max_tokens": FREE_TOKENS, "temperature": 0}
    _, took_s = post(edged, "/v1/chat/completions", body)
    return took_s
