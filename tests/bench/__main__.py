"""`make bench`: edged beside its peers on this computer, one scenario after the other.

    python -m tests.bench [SCENARIO …] [--quick] [--json FILE]

Without names every scenario is measured, which takes hours; `--list` says what there is. `--quick` only
proves that everything runs: its figures mean nothing and its targets are not judged.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tests.bench.errors import BenchError
from tests.bench.figures import builtins, text
from tests.bench.machine import describe, watch
from tests.bench.options import MODELS, PEERS, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.figures import Report

UNQUIET = "; this computer is not quiet, and these figures are worth little"

SCREEN = Path("-")

# name → (module and function, what it shows)
SCENARIOS = {
    "footprint": ("tests.bench.footprint:run", "what the command line and the idle daemon cost"),
    "stream": ("one_stream:run", "one stream, over HTTP and MQTT, against the bare decode loop"),
    "shared": ("eight_clients:shared", "eight clients with one system prompt, against both peers"),
    "unshared": ("eight_clients:unshared", "eight clients with a system prompt each, against both peers"),
    "conversation": ("conversation:run", "ten turns on a hybrid model, against both peers"),
    "classify": ("classify:run", "a choice by one forward pass against one written as JSON"),
    "stall": ("stall:run", "a long prompt between running streams, against llama-server"),
    "grammar": ("grammar:run", "decoding under a grammar against free decoding"),
    "neighbours": ("neighbours:run", "one busy process a core beside it, against llama-server"),
    "flood": ("flood:run", "a thousand clients at fifty times the capacity: memory, refusals, answers"),
    "latency": ("latency:run", "what MQTT and HTTP add to the engine's own first token, and CPU a token"),
    "pool": ("pool:run", "three daemons on one broker against one, and how unequal boxes share work"),
    "broker": ("broker:run", "what a message, a connection and a queue cost mosquitto"),
    "endurance": ("endurance:run", "memory after thousands of requests of random shapes"),
}


def scenario(name: str) -> Callable[[Options], Iterator[Report]]:
    module, function = SCENARIOS[name][0].split(":")
    path = module if "." in module else f"tests.bench.scenarios.{module}"
    return getattr(importlib.import_module(path), function)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=…", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help="see --list")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: does it run?")
    parser.add_argument("--rounds", type=int, default=0, help="instead of each scenario's own number")
    parser.add_argument("--threads", type=int, default=0, help="instead of one per physical core")
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one")
    parser.add_argument("--peer", choices=[*PEERS, "none"], action="append", help="only this one")
    parser.add_argument("--native", action="store_true", help="compile llama-server for this CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there; - for the screen")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="on a disk: replicas and logs while measuring"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in SCENARIOS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return options


def measured(name: str, chosen: argparse.Namespace) -> Iterator[Report]:
    """The reports of one scenario, in a folder for the state of its daemons and the log of every server."""
    with tempfile.TemporaryDirectory(prefix="edged-bench-", dir=chosen.folder) as folder:
        yield from scenario(name)(
            Options(
                folder=Path(folder),
                quick=chosen.quick,
                rounds=chosen.rounds,
                threads=chosen.threads,
                native=chosen.native,
                models=tuple(chosen.model or MODELS),
                peers=tuple(peer for peer in chosen.peer or PEERS if peer != "none"),
            )
        )


class Record:
    """All that was found, printed as it comes and written anew after each report: a bench takes hours."""

    def __init__(self, path: Path | None, *, quick: bool) -> None:
        self._path = path
        self._out = sys.stderr if path == SCREEN else sys.stdout
        self._found: dict[str, Any] = {"machine": describe(), "quick": quick, "reports": [], "missed": []}
        self.say("\n".join(f"{name}: {value}" for name, value in self._found["machine"].items()))

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def load(self, when: str) -> None:
        """Look at what else runs."""
        load = watch()
        self._found[when] = msgspec.to_builtins(load)
        self.say(f"{when}: {load}{'' if load.quiet else UNQUIET}")

    def report(self, report: Report) -> None:
        quick = self._found["quick"]
        self._found["reports"].append(builtins(report))
        self._found["missed"] += [] if quick else report.missed
        self.say(text(report, judged=not quick))
        if self._path not in {None, SCREEN}:
            self._path.write_text(self._json())

    def failed(self, name: str, error: Exception) -> None:
        self._found["missed"].append(f"{name}: not measured: {error}")
        self.say(f"\n{self._found['missed'][-1]}")

    def close(self) -> int:
        """The exit status: 1 when a target was missed or something was not measured."""
        self.say("")
        self.load("after")
        missed = self._found["missed"]
        if missed:
            self.say("\n  ".join(["Missed:", *missed]))
        if self._path == SCREEN:
            print(self._json())
        elif self._path is not None:
            self._path.write_text(self._json())
        return 1 if missed else 0

    def _json(self) -> str:
        return json.dumps(self._found, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and replicas go with us
    if chosen.list:
        print("\n".join(f"{name:<14}{shows}" for name, (_, shows) in SCENARIOS.items()))
        return 0
    record = Record(chosen.json, quick=chosen.quick)
    record.load("before")
    for name in chosen.names or SCENARIOS:
        try:
            for report in measured(name, chosen):
                record.report(report)
        except BenchError as error:
            record.failed(name, error)
    return record.close()


if __name__ == "__main__":
    sys.exit(main())
