"""A long prompt arrives while four streams decode: the longest any of them waits for its next token."""

from __future__ import annotations

import threading
import time
from functools import partial
from itertools import count, pairwise
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from tests.bench.conditions import EDGED, LLAMA_SERVER, Conditions
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import at_once, chat
from tests.bench.options import say
from tests.bench.servers import edged_and_llama_server, kernels, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.conditions import Server
    from tests.bench.http_client import Stream
    from tests.bench.models import Model
    from tests.bench.options import Options

STREAMS = 4
LONG_TOKENS = 4000
STREAM_TOKENS = 1500  # more than are drawn while the long prompt is read; a stream that ends begins anew
CONTEXT = 4608
ROUNDS = 3
QUIET_PIECES = 8  # of each stream, before the long prompt comes
SMALL = f"{LLAMA_SERVER}, batch of 64"


class Found(Struct, kw_only=True):
    """What one long prompt did to the streams beside it; seconds."""

    before_s: float  # the usual gap between two tokens of a stream
    largest_s: float
    first_s: float  # until the long prompt had its first token


def run(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2", "replica"):
        yield _bench(options, model)


def _bench(options: Options, model: Model) -> Report:
    long = options.count(LONG_TOKENS, 300)
    conditions = Conditions(model=model.path, context=CONTEXT, slots=STREAMS + 1, threads=options.threads)
    report = Report(
        scenario="stall",
        title=f"A prompt of {long} tokens beside {STREAMS} streams: {model.name}",
        settings=conditions.describe(),
    )
    report.note(
        f"{LLAMA_SERVER} puts up to n_batch = 2048 tokens between two rounds by default; the other one has "
        f"been given n_batch = n_ubatch = {conditions.ubatch}, the step of edged"
    )
    pairs = [Ratio(of=EDGED, to=LLAMA_SERVER), Ratio(of=EDGED, to=SMALL)]
    figures = {
        "largest_s": report.figure("largest gap between two tokens of a stream", "s", *pairs),
        "before_s": report.figure("usual gap before, median", "s", *pairs),
        "first_s": report.figure("time to first token of the long prompt", "s", *pairs),
    }
    servers = edged_and_llama_server(options, conditions, (SMALL, conditions.ubatch))
    fresh = count()
    with started(*servers):
        report.settings |= kernels(servers)
        for number in range(options.rounds_of(ROUNDS)):
            prompt = model.text(long, number)
            for server in servers:
                say(f"{server.name}, round {number + 1}: {report.title}")
                found = _measure(model, server, prompt, fresh)
                for name, figure in figures.items():
                    figure.add(server.name, getattr(found, name))
    return report


class _Watch:
    """Knows when all streams run and when the long prompt is through; gaps are of one stream each."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.running = threading.Barrier(STREAMS + 1)
        self.over = threading.Event()
        self.streams: list[Stream] = []

    def keep_streaming(self, server: Server, numbers: Iterator[int]) -> Stream:
        """Answers one after the other until the long prompt is through; the last one."""
        waited = False

        def on_piece(stream: Stream) -> bool:
            nonlocal waited
            if len(stream.arrivals_s) >= QUIET_PIECES and not waited:
                waited = True
                self.running.wait()
            return self.over.is_set()

        while True:
            ask = {"role": "user", "content": self._model.question(next(numbers))}
            stream = chat(server, {"messages": [ask], "max_tokens": STREAM_TOKENS}, on_piece)
            self.streams.append(stream)
            if self.over.is_set():
                return stream


def _measure(model: Model, server: Server, prompt: str, fresh: Iterator[int]) -> Found:
    watch = _Watch(model)
    arrived = through = 0.0

    def long() -> Stream:
        nonlocal arrived, through
        watch.running.wait()
        arrived = time.monotonic()
        try:
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 2}
            stream = chat(server, body)
            through = stream.arrivals_s[0]
            return stream
        finally:
            watch.over.set()

    streaming = [partial(watch.keep_streaming, server, fresh)] * STREAMS
    long_stream = at_once([*streaming, long])[-1]
    before, after = [], []
    for stream in watch.streams:
        for earlier, later in pairwise(stream.arrivals_s):
            if later < arrived:
                before.append(later - earlier)
            elif earlier <= through:
                after.append(later - earlier)
    return Found(before_s=median(before), largest_s=max(after), first_s=long_stream.first_s)
