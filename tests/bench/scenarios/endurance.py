"""Anonymous memory of the worker after thousands of random requests, against after the first hundred."""

from __future__ import annotations

import queue
import random
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from edged.host.procfs import process_memory
from tests.bench.conditions import Conditions
from tests.bench.errors import BenchError
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import abandon, at_once, chat
from tests.bench.options import say
from tests.bench.servers import Edged, started
from tests.kit.daemon import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.http_client import Stream
    from tests.bench.models import Model
    from tests.bench.options import Options

REQUESTS = 2000
FIRST = 100
CLIENTS = 6  # two more than there are slots, so that some always wait
SLOTS = 4
CONTEXT = 1024
SYSTEMS = 5  # shared by the requests that have a system prompt
MOST = 1.02
SEED = 4
IDLE_S = 60.0
EARLY, LATE = "after the first {first}", "at the end"


class Shape(Struct, frozen=True, kw_only=True):
    """One random request. The client hangs up after ``cut_s`` seconds or ``cut_after`` pieces, if at all."""

    messages: list[dict[str, str]]
    max_tokens: int
    cut_s: float = 0.0
    cut_after: int = 0


def run(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2"):
        yield _bench(options, model)


def _bench(options: Options, model: Model) -> Report:
    requests, first = options.count(REQUESTS, 30), options.count(FIRST, 15)
    conditions = Conditions(model=model.path, context=CONTEXT, slots=SLOTS, threads=options.threads)
    report = Report(
        scenario="endurance",
        title=f"{requests} requests of random shapes: {model.name}",
        settings=conditions.describe(),
    )
    early = EARLY.format(first=first)
    memory = report.figure("anonymous memory of the worker", "MiB", Ratio(of=LATE, to=early, at_most=MOST))
    edged = Edged(options.folder, conditions)
    shapes = _shapes(model, requests)
    with started(edged):
        worker = edged.worker_pid()
        begun, cut, failed = time.monotonic(), 0, 0
        curve: list[float] = []
        for start in range(0, requests, first):
            some_cut, some_failed = _play(edged, shapes[start : start + first])
            cut, failed = cut + some_cut, failed + some_failed
            curve.append(_idle_mib(edged, worker))
            say(f"{start + first} requests: {curve[-1]:.1f} MiB")
        if edged.worker_pid() != worker:
            raise BenchError(f"the worker was replaced meanwhile:\n{edged.log()[-2000:]}")
        memory.add(early, curve[0])
        memory.add(LATE, curve[-1])
        report.settings["requests"] = (
            f"{requests} by {CLIENTS} clients in {time.monotonic() - begun:.0f} s, {cut} cut by the client, "
            f"{failed} refused"
        )
        report.settings[f"MiB after every {first}"] = " ".join(f"{mib:.1f}" for mib in curve)
    return report


def _shapes(model: Model, requests: int) -> list[Shape]:
    """The same requests in every run: half with a shared system prompt, a quarter cut short."""
    rng = random.Random(SEED)
    systems = [model.text(rng.randrange(40, 400), seed) for seed in range(SYSTEMS)]
    return [_shape(rng, model, systems, number) for number in range(requests)]


def _shape(rng: random.Random, model: Model, systems: list[str], number: int) -> Shape:
    length = int(2 ** rng.uniform(2, 8.5))  # 4 to 360 tokens, short ones more often
    messages = [{"role": "user", "content": f"{model.question(number)} {model.text(length, number)}"}]
    if rng.random() < 0.5:
        messages.insert(0, {"role": "system", "content": rng.choice(systems)})
    fate = rng.random()
    return Shape(
        messages=messages,
        max_tokens=int(2 ** rng.uniform(0, 5)),
        cut_s=rng.uniform(0.001, 0.5) if fate < 0.1 else 0.0,
        cut_after=rng.randrange(1, 8) if 0.1 <= fate < 0.25 else 0,
    )


def _play(edged: Edged, shapes: list[Shape]) -> tuple[int, int]:
    """Send ``shapes`` from a few clients at once; how many were cut, and how many refused."""
    waiting: queue.SimpleQueue[Shape] = queue.SimpleQueue()
    for shape in shapes:
        waiting.put(shape)
    cut: list[Shape] = []
    refused: list[Shape] = []

    def client() -> Stream | None:
        while True:
            try:
                shape = waiting.get_nowait()
            except queue.Empty:
                return None
            try:
                if _send(edged, shape):
                    cut.append(shape)
            except BenchError:
                refused.append(shape)

    at_once([client] * CLIENTS)
    return len(cut), len(refused)


def _send(edged: Edged, shape: Shape) -> bool:
    """Whether the client hung up."""
    body = {"messages": shape.messages, "max_tokens": shape.max_tokens}
    if shape.cut_s:
        abandon(edged, body, shape.cut_s)
        return True
    return chat(edged, body, lambda stream: len(stream.arrivals_s) == shape.cut_after).cut


def _idle_mib(edged: Edged, worker: int) -> float:
    """RssAnon of the worker once it has nothing to do."""
    wait_until(lambda: _idle(edged.daemon.status()), "the daemon to be idle", IDLE_S)
    memory = process_memory(worker)
    if memory is None:
        raise BenchError(f"the worker is gone:\n{edged.log()[-2000:]}")
    return memory.rss_anon_bytes / (1 << 20)


def _idle(status: dict[str, Any]) -> bool:
    return not status["running"] and not status["queue"]
