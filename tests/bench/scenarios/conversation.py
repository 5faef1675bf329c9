"""A conversation of ten turns on a hybrid model: how much of each prompt is evaluated again, and how soon."""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from tests.bench.conditions import EDGED, LLAMA_CPP_PYTHON, LLAMA_SERVER, Conditions
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import chat
from tests.bench.options import say
from tests.bench.peers.servers import LlamaCppPython
from tests.bench.servers import edged_and_peers, kernels, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.figures import Figure
    from tests.bench.http_client import Stream
    from tests.bench.models import Model
    from tests.bench.options import Options

TURNS = 10
SYSTEM_TOKENS = 256
USER_TOKENS = 48
ANSWER_TOKENS = 48
CONTEXT = 2048
SLOTS = 2
ROUNDS = 3
MOST_AGAIN = 0.5  # of a prompt, in any turn but the first: the last answer and the new question are a third

# llama-cpp-python tells in its log alone how much of a prompt it still has.
REMAINING = re.compile(r"prefix-match hit, remaining (\d+) prompt tokens")


class Talk(Struct, kw_only=True):
    """One conversation with one server, as it went."""

    server: Any
    messages: list[dict[str, str]]
    log_chars: int = 0
    first_s: list[float] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)

    def turn(self, text: str, tokens: int) -> None:
        """Say ``text``, wait for the answer and note what it took."""
        self.messages.append({"role": "user", "content": text})
        self.log_chars = len(self.server.log())
        stream = chat(self.server, {"messages": self.messages, "max_tokens": tokens})
        self.messages.append({"role": "assistant", "content": stream.text})
        self.first_s.append(stream.first_s)
        self.prompts.append(stream.prompt_tokens)
        self.evaluated.append(self._evaluated(stream))

    def _evaluated(self, stream: Stream) -> int:
        """-1: all of a prompt whose length the server does not tell."""
        if isinstance(self.server, LlamaCppPython):
            found = REMAINING.findall(self.server.log()[self.log_chars :])
            return int(found[-1]) if found else -1
        return stream.prompt_tokens - (stream.cached_tokens or 0)


def run(options: Options) -> Iterator[Report]:
    for model in options.open_models("replica"):
        yield _bench(options, model)


def _bench(options: Options, model: Model) -> Report:
    turns, answer = options.count(TURNS, 4), options.count(ANSWER_TOKENS, 6)
    conditions = Conditions(model=model.path, context=CONTEXT, slots=SLOTS, threads=options.threads)
    report = Report(
        scenario="conversation",
        title=f"A conversation of {turns} turns, {answer}-token answers: {model.name}",
        settings=conditions.describe(),
    )
    peers = [Ratio(of=EDGED, to=name) for name in (LLAMA_SERVER, LLAMA_CPP_PYTHON)]
    figures = [
        report.figure("prompt tokens evaluated after turn one", "tokens in all turns", *peers),
        report.figure(
            "most of one prompt evaluated after turn one", "share of the prompt", *peers,
            at_most={EDGED: MOST_AGAIN},
        ),
        report.figure("time to first token after turn one, median", "s", *peers),
        report.figure("time to first token of the last turn", "s", *peers),
    ]  # fmt: skip
    servers = edged_and_peers(options, conditions)
    with started(*servers):
        report.settings |= kernels(servers)
        for server in servers:
            chat(server, {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2})
        for number in range(options.rounds_of(ROUNDS)):
            say(f"round {number + 1}: {report.title}")
            system = model.text(options.count(SYSTEM_TOKENS, 40), number)
            talks = [
                Talk(server=server, messages=[{"role": "system", "content": system}]) for server in servers
            ]
            for turn in range(turns):
                ask = model.text(USER_TOKENS, 1000 * number + turn)
                for talk in talks:
                    talk.turn(ask, answer)
            _note(report, figures, talks)
    return report


def _note(report: Report, figures: list[Figure], talks: list[Talk]) -> None:
    """Add one round. Prompts are the same everywhere, so what one server does not tell another does."""
    told = talks[0].prompts
    for talk in talks:
        evaluated = [
            prompt if count < 0 else count for count, prompt in zip(talk.evaluated, told, strict=True)
        ]
        shares = [count / prompt for count, prompt in zip(evaluated, told, strict=True)]
        name = talk.server.name
        values = (sum(evaluated[1:]), max(shares[1:]), median(talk.first_s[1:]), talk.first_s[-1])
        for figure, value in zip(figures, values, strict=True):
            figure.add(name, value)
        by_turn = " ".join(f"{count}/{prompt}" for count, prompt in zip(evaluated, told, strict=True))
        report.settings[f"evaluated of each prompt, {name}"] = by_turn
