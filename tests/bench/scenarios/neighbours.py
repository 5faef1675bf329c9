"""Decode speed with one busy process per core beside it, and what waiting politely costs when it is quiet."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING

from edged.engine.process import worker_environment
from edged.ipc.frames import FrameReader
from edged.ipc.messages import EngineOptions, Load, Measure, Measured, Ready, decode_from_worker, encode
from tests.bench.conditions import EDGED, LLAMA_SERVER, Conditions
from tests.bench.errors import BenchError
from tests.bench.figures import Ratio, Report
from tests.bench.http_client import chat
from tests.bench.options import say
from tests.bench.servers import Edged, edged_and_llama_server, kernels, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.conditions import Server
    from tests.bench.models import Model
    from tests.bench.options import Options

TOKENS = 64
ROUNDS = 5
LEAST_BUSY = 0.35
LEAST_QUIET = 0.97
BUSY = "while True: pass"
CONTEXT = 512
TUNED = "edged, tuned for it, busy"

# How OpenMP's threads wait for each other; "ours" is what edged sets for its worker.
DEFAULT, OURS = "spinning (default)", "edged's"
POLICIES: dict[str, dict[str, str]] = {
    DEFAULT: {},
    "spinning not at all": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def run(options: Options) -> Iterator[Report]:
    for model in options.open_models("smollm2"):
        yield _servers(options, model)
        yield _policies(options, model)


@contextlib.contextmanager
def busy_neighbours() -> Iterator[None]:
    """One process a CPU that never waits, for the length of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _servers(options: Options, model: Model) -> Report:
    tokens = options.count(TOKENS, 8)
    conditions = Conditions(model=model.path, context=CONTEXT, slots=1, threads=options.threads)
    report = Report(
        scenario="neighbours",
        title=f"One stream beside {os.cpu_count()} busy processes, {tokens} tokens: {model.name}",
        settings=conditions.describe(),
    )
    ours = Ratio(of=_busy(EDGED), to=EDGED, at_least=LEAST_BUSY)
    speed = report.figure(
        "decode speed", "tok/s",
        ours, Ratio(of=TUNED, to=EDGED), Ratio(of=_busy(LLAMA_SERVER), to=LLAMA_SERVER),
    )  # fmt: skip
    report.note(f"{TUNED}: a daemon that chose threads and wait policy itself while the neighbours were busy")
    servers = edged_and_llama_server(options, conditions)
    fresh = count()

    def ask(server: Server, wanted: int) -> float:
        message = {"role": "user", "content": model.question(next(fresh))}
        return chat(server, {"messages": [message], "max_tokens": wanted}).decode_tps

    tuned = Edged(options.folder, conditions, {"model": {"threads": 0}}, name=TUNED)
    with started(*servers), _started_busy(tuned):
        report.settings |= kernels(servers)
        for server in servers:
            ask(server, 2)
        for number in range(options.rounds_of(ROUNDS)):
            say(f"round {number + 1}: {report.title}")
            for server in servers:
                speed.add(server.name, ask(server, tokens))
            with busy_neighbours():
                for server in servers:
                    speed.add(_busy(server.name), ask(server, tokens))
                speed.add(TUNED, ask(tuned, tokens))
    return report


@contextlib.contextmanager
def _started_busy(server: Edged) -> Iterator[None]:
    """``server``, started beside busy processes, as after a restart of the box."""
    with contextlib.ExitStack() as stack:
        with busy_neighbours():
            stack.enter_context(started(server))
        yield


def _busy(name: str) -> str:
    return f"{name}, busy"


def _policies(options: Options, model: Model) -> Report:
    steps = options.count(TOKENS, 8)
    policies = {OURS: _ours(), **POLICIES}
    report = Report(
        scenario="neighbours",
        title=f"How threads wait, {steps} steps of one sequence in a worker: {model.name}",
        settings={name: " ".join(map("=".join, env.items())) for name, env in policies.items()},
    )
    quiet = report.figure("quiet", "tok/s", Ratio(of=OURS, to=DEFAULT, at_least=LEAST_QUIET))
    busy = report.figure(
        "busy", "tok/s", *(Ratio(of=name, to=DEFAULT) for name in policies if name != DEFAULT)
    )
    for number in range(options.rounds_of(ROUNDS)):
        say(f"round {number + 1}: {report.title}")
        for name, environment in policies.items():
            quiet.add(name, _worker_tps(model.path, options, environment, steps))
        with busy_neighbours():
            for name, environment in policies.items():
                busy.add(name, _worker_tps(model.path, options, environment, steps))
    return report


def _ours() -> dict[str, str]:
    return {name: value for name, value in worker_environment().items() if _is_policy(name)}


def _is_policy(name: str) -> bool:
    return name.startswith(("OMP_", "GOMP_"))


def _worker_tps(path: str, options: Options, environment: dict[str, str], steps: int) -> float:
    """What one worker measures after loading ``path``."""
    ours, theirs = socket.socketpair()
    threads = Conditions(model=path, context=CONTEXT, slots=1, threads=options.threads).used_threads
    settings = EngineOptions(context=CONTEXT, slots=1, ubatch=64, threads=threads, repack=False)
    clean = {name: value for name, value in os.environ.items() if not _is_policy(name)}
    with ours, subprocess.Popen(
        [sys.executable, "-m", "edged.worker", "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**clean, **environment},
    ) as worker:  # fmt: skip
        theirs.close()
        try:
            ours.sendall(encode(Load(path=path, backend="llama", options=settings)))
            reader = FrameReader()
            while data := ours.recv(1 << 16):
                for payload in reader.feed(data):
                    message = decode_from_worker(payload)
                    if isinstance(message, Ready):
                        ours.sendall(encode(Measure(depth=64, decode_steps=steps)))
                    elif isinstance(message, Measured):
                        return message.decode_tps
        finally:
            worker.kill()
    raise BenchError("a worker died while it was measured")
