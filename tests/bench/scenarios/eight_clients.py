"""Eight clients at once, with one shared system prompt or with one each, against both peers."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from statistics import median
from typing import TYPE_CHECKING

from edged.host.procfs import process_memory
from tests.bench.conditions import EDGED, LLAMA_CPP_PYTHON, LLAMA_SERVER, Conditions
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import Stream, at_once, chat
from tests.bench.models import SMOLLM2, Model
from tests.bench.options import Options, say
from tests.bench.servers import edged_and_peers, kernels, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.peers.servers import Peer
    from tests.bench.servers import Edged

CLIENTS = 8
PREFIX_TOKENS = 512
ANSWER_TOKENS = 48
ROUNDS = 3
CONTEXT = 1024  # 512 + 48 and the question, rounded up

# model → (throughput at least × llama-server's, first token at most × its, throughput × llama-cpp-python's)
SHARED = {True: (3.5, 0.06, 8.0), False: (8.0, 0.03, 8.0)}


def shared(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2", "replica"):
        yield _bench(options, model, share=True)


def unshared(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2", "replica"):
        yield _bench(options, model, share=False)


def _bench(options: Options, model: Model, *, share: bool) -> Report:
    prefix, answer = options.count(PREFIX_TOKENS, 96), options.count(ANSWER_TOKENS, 8)
    conditions = Conditions(
        model=model.path, context=options.count(CONTEXT, 256), slots=CLIENTS, threads=options.threads
    )
    what = "one shared system prompt" if share else "a system prompt each"
    report = Report(
        scenario="shared" if share else "unshared",
        title=f"{CLIENTS} clients at once, {what} of {prefix} tokens, {answer}-token answers: {model.name}",
        settings=conditions.describe(),
    )
    servers = edged_and_peers(options, conditions)
    with started(*servers):
        Bench(report, model, servers, prefix=prefix, answer=answer, share=share).run(options)
        report.settings |= kernels(servers)
    return report


class Bench:
    """The rounds of one model: in each, every server in turn gets the same requests."""

    def __init__(
        self,
        report: Report,
        model: Model,
        servers: list[Edged | Peer],
        *,
        prefix: int,
        answer: int,
        share: bool,
    ) -> None:
        self._report = report
        self._model = model
        self._servers = servers
        self._prefix = prefix
        self._answer = answer
        self._share = share
        self._short: dict[str, int] = defaultdict(int)

    def run(self, options: Options) -> None:
        fresh = count(1)
        speed, first, *again = self._figures()
        for server in self._servers:
            chat(server, self._body("You are warming up.", next(fresh)))
        for _ in range(options.rounds_of(ROUNDS)):
            systems = self._systems(next(fresh))
            numbers = [next(fresh) for _ in range(2 * CLIENTS + 1)]
            for server in self._servers:
                say(f"{server.name}: {self._report.title}")
                if self._share:
                    chat(server, {**self._body(systems[0], numbers[-1]), "max_tokens": 1})
                self._burst(server, systems, numbers[:CLIENTS], speed, first)
                if self._share:
                    self._burst(server, systems, numbers[CLIENTS:-1], *again)
        memory = self._report.figure("memory of its own after that", "MiB")
        for server in self._servers:
            pages = [process_memory(pid) for pid in server.pids()]
            memory.add(server.name, sum(one.rss_anon_bytes for one in pages if one) / (1 << 20))
        for name, answers in self._short.items():
            self._report.note(f"{name}: {answers} answers ended before {self._answer} tokens")

    def _figures(self) -> list:
        report = self._report
        if not self._share:
            limits = (Ratio(of=EDGED, to=LLAMA_SERVER, at_least=1.1), Ratio(of=EDGED, to=LLAMA_CPP_PYTHON))
            waits = (Ratio(of=EDGED, to=LLAMA_SERVER, at_most=1.0), Ratio(of=EDGED, to=LLAMA_CPP_PYTHON))
            return [
                report.figure("throughput", "tok/s", *limits),
                report.figure("time to first token, median of the clients", "s", *waits),
            ]
        faster, sooner, other = SHARED[self._model.name == SMOLLM2]
        limits = (
            Ratio(of=EDGED, to=LLAMA_SERVER, at_least=faster),
            Ratio(of=EDGED, to=LLAMA_CPP_PYTHON, at_least=other),
        )
        waits = (
            Ratio(of=EDGED, to=LLAMA_SERVER, at_most=sooner), Ratio(of=EDGED, to=LLAMA_CPP_PYTHON)
        )  # fmt: skip
        free = tuple(Ratio(of=EDGED, to=name) for name in (LLAMA_SERVER, LLAMA_CPP_PYTHON))
        report.note(
            "one client has asked with the system prompt before the eight come; `again`: eight more right "
            "after them, when a server that keeps a prompt for each slot has it in all of them"
        )
        return [
            report.figure("throughput", "tok/s", *limits),
            report.figure("time to first token, median of the clients", "s", *waits),
            report.figure("throughput, again", "tok/s", *free),
            report.figure("time to first token, again", "s", *free),
        ]

    def _systems(self, seed: int) -> list[str]:
        """The system prompt of each client: new ones in every round."""
        if self._share:
            return [self._model.text(self._prefix, seed)] * CLIENTS
        return [self._model.text(self._prefix, seed * CLIENTS + index) for index in range(CLIENTS)]

    def _body(self, system: str, number: int) -> dict:
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": self._model.question(number)},
        ]
        return {"messages": messages, "max_tokens": self._answer}

    def _burst(self, server, systems, numbers, speed, first) -> None:
        bodies = [self._body(system, number) for system, number in zip(systems, numbers, strict=True)]
        streams = at_once([lambda body=body: chat(server, body) for body in bodies])
        begun, ended = min(one.sent_s for one in streams), max(one.ended_s for one in streams)
        speed.add(server.name, sum(one.tokens for one in streams) / (ended - begun))
        first.add(server.name, median(one.first_s for one in streams))
        self._note(server.name, streams)

    def _note(self, name: str, streams: list[Stream]) -> None:
        prompts = sorted({one.prompt_tokens for one in streams if one.prompt_tokens})
        if prompts:
            self._report.settings.setdefault("prompts", f"{prompts[0]} to {prompts[-1]} tokens")
        if short := sum(one.tokens < self._answer for one in streams):
            self._short[name] += short
