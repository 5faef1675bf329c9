"""Real daemons that share the work of a pool, each perhaps on a computer of its own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.kit.daemon import to_toml, wait_until
from tests.kit.service import fake_model, fake_tree, long_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.integration.mqtt_peer import Peer
    from tests.kit.network import Cable

ROOT = "edged/pool"
SLOTS = 2
KEEPALIVE_S = 5  # the least; the broker misses a box after one and a half of it


class Member:
    """One daemon of the fake engine, which takes ``step_s`` for each of the ``tokens`` of an answer."""

    def __init__(
        self,
        node: str,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int,
        step_s: float,
        tokens: int,
        inside: Sequence[str] = (),
    ) -> None:
        self.node = node
        self._inside = inside
        folder.mkdir()
        tree = fake_tree(
            fake_model(folder, step_s=step_s, answer=long_text(tokens)),
            model={"slots": SLOTS},
            mqtt={"host": host, "port": port, "keepalive_s": KEEPALIVE_S},
            http={"enabled": False},
            discovery={"enabled": False},
            pool={"enabled": True},
        )
        self._config = folder / "edged.toml"
        self._config.write_text(to_toml(tree | {"node": node, "state_dir": str(folder / "state")}))
        self.log = folder / "edged.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._inside, sys.executable, "-m", "edged", "--config", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(40)


@contextlib.contextmanager
def members(
    folder: Path,
    steps_s: Sequence[float],
    *,
    port: int,
    tokens: int,
    cables: Sequence[Cable] = (),
) -> Iterator[list[Member]]:
    """Daemons named a, b, c ...; those that still run are killed at the end."""
    made = []
    for place, step_s in enumerate(steps_s):
        where = {"host": cables[place].here, "inside": cables[place].inside} if cables else {}
        name = chr(ord("a") + place)
        made.append(Member(name, folder / f"box-{name}", port=port, step_s=step_s, tokens=tokens, **where))
    try:
        for one in made:
            one.start()
        yield made
    finally:
        for one in made:
            one.stop(signal.SIGKILL)


def serving(peer: Peer, node: str) -> bool:
    """Whether the last word of a box is that it takes work."""
    said = [message.payload for message in peer.on(f"{ROOT}/box/{node}")]
    return bool(said and said[-1]) and json.loads(said[-1])["state"] == "serving"


def await_serving(peer: Peer, boxes: Sequence[Member]) -> None:
    logs = [box.log for box in boxes]
    wait_until(lambda: all(serving(peer, box.node) for box in boxes), f"all boxes to serve; logs: {logs}")


def answers(peer: Peer, client: str) -> list[dict[str, Any]]:
    """Every answer that a client heard, in order, duplicates too."""
    return [json.loads(one.payload) for one in peer.on(f"{ROOT}/response/{client}/chat")]
