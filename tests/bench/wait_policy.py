"""Decode speed by OpenMP wait policy, quiet and with one busy process per core; medians of interleaved runs.

    python tests/bench/wait_policy.py [MODEL.gguf]

Prints tokens per second of each policy and its ratio to the default of the same round.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from statistics import median

from edged.host.cpus import compute_threads
from edged.ipc.frames import FrameReader
from edged.ipc.messages import EngineOptions, Load, Measure, Measured, Ready, decode_from_worker, encode

POLICIES: dict[str, dict[str, str]] = {
    "default (spin)": {},
    "edged (spin 1000)": {"GOMP_SPINCOUNT": "1000"},
    "no spin": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
ROUNDS = 5
BUSY = "while True: pass"


def decode_tps(model: str, environment: dict[str, str]) -> float:
    """What one worker measures after loading ``model``."""
    ours, theirs = socket.socketpair()
    options = EngineOptions(context=1024, slots=1, ubatch=64, threads=compute_threads(), repack=False)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    worker = subprocess.Popen(
        [sys.executable, "-m", "edged.worker", "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**clean, **environment},
    )
    theirs.close()
    try:
        ours.sendall(encode(Load(path=model, backend="llama", options=options)))
        reader = FrameReader()
        while data := ours.recv(65536):
            for payload in reader.feed(data):
                message = decode_from_worker(payload)
                if isinstance(message, Ready):
                    ours.sendall(encode(Measure(depth=64, decode_steps=32)))
                elif isinstance(message, Measured):
                    return message.decode_tps
        raise SystemExit("the worker died")
    finally:
        ours.close()
        worker.wait(30)


def main() -> None:
    from tests.kit.model import smollm2

    model = sys.argv[1] if len(sys.argv) > 1 else str(smollm2())
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    for title, neighbours in (("quiet", 0), ("one busy process per core", os.cpu_count() or 1)):
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
        try:
            rounds = [{name: decode_tps(model, env) for name, env in POLICIES.items()} for _ in range(ROUNDS)]
        finally:
            for process in busy:
                process.kill()
                process.wait()
        print(f"\n{title}\n  {'policy':<20}{'tok/s':>8}{'ratio':>8}")
        for name in POLICIES:
            speed = median(one[name] for one in rounds)
            ratio = median(one[name] / one["default (spin)"] for one in rounds)
            print(f"  {name:<20}{speed:>8.1f}{ratio:>8.2f}")
    print(f"\nload average after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
