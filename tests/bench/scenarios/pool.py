"""Three daemons on one broker against one, and how boxes of different speed share the work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from tests.bench.figures import Ratio, Report
from tests.bench.options import say
from tests.bench.scenarios.broker import cpu_s, mosquitto
from tests.integration.mqtt_peer import Peer
from tests.kit.daemon import wait_until
from tests.kit.network import cables
from tests.kit.pool import ROOT, SLOTS, answers, await_serving, members

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.bench.options import Options

REQUESTS = 300
TOKENS = 20
STEP_S = 0.02
ROUNDS = 3
ONE, THREE = "one box", "three boxes"
SENT = "$SYS/broker/publish/messages/sent"  # by the broker; each message once for everybody it goes to
LIMIT_S = 300.0


def run(options: Options) -> Iterator[Report]:
    requests = options.count(REQUESTS, 24)
    report = Report(
        scenario="pool",
        title=f"{requests // 3} requests for each box of a pool, all at once",
        settings={
            "engine": f"fake, {TOKENS} tokens an answer, {1000 * STEP_S:.0f} ms a token, {SLOTS} slots a box",
            "computers": "a network namespace for each box, one mosquitto",
        },
    )
    speed = report.figure("answers", "1/s", Ratio(of=THREE, to=ONE, at_least=2.5))
    ideal = report.figure("share of what the slots can do", "%")
    messages = report.figure("messages that the broker sent for a request", "")
    cost = report.figure("processor time of the broker for a request", "ms")
    share = report.figure("answers of boxes at speed 1 : 2 : 4", "%")
    for number in range(options.rounds_of(ROUNDS)):
        say(f"round {number + 1}: {report.title}")
        for name, steps_s in ((ONE, [STEP_S]), (THREE, [STEP_S] * 3)):
            count = requests * len(steps_s) // 3  # as many for each box
            found = _measured(options.folder / f"{name[:3]}-{number}", steps_s, count)
            speed.add(name, count / found.took_s)
            ideal.add(name, 100 * count / found.took_s / (len(steps_s) * SLOTS / (TOKENS * STEP_S)))
            messages.add(name, found.messages / count)
            cost.add(name, 1000 * found.broker_s / count)
        found = _measured(options.folder / f"mixed-{number}", [4 * STEP_S, 2 * STEP_S, STEP_S], requests)
        for node, speed_of in zip("abc", (1, 2, 4), strict=True):
            share.add(f"speed {speed_of} (ideal {100 * speed_of / 7:.1f})", 100 * found.by(node) / requests)
        messages.add("three unequal boxes", found.messages / requests)
    yield report


class Found:
    """What one run came to."""

    def __init__(self, nodes: list[str], took_s: float, messages: int, broker_s: float) -> None:
        self._nodes = nodes
        self.took_s = took_s
        self.messages = messages
        self.broker_s = broker_s

    def by(self, node: str) -> int:
        """Answers of one box."""
        return self._nodes.count(node)


def _measured(folder: Path, steps_s: Sequence[float], requests: int) -> Found:
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        laid = stack.enter_context(cables(len(steps_s)))
        port = 18830
        listeners = [f"listener {port} {cable.here}" for cable in laid]
        process, local = stack.enter_context(mosquitto(folder, *listeners))
        boxes = stack.enter_context(members(folder, steps_s, port=port, tokens=TOKENS, cables=laid))
        return asyncio.run(_asked(local, process, boxes, requests))


async def _asked(port: int, process: subprocess.Popen[bytes], boxes: Sequence, requests: int) -> Found:
    async with Peer(port, f"{ROOT}/response/#", f"{ROOT}/box/+", SENT) as peer:
        await asyncio.to_thread(await_serving, peer, boxes)
        sent_before = await asyncio.to_thread(_settled, peer)
        before_s, began_s = cpu_s(process), time.monotonic()
        for number in range(requests):
            peer.send(f"{ROOT}/request/esp/chat", {"id": f"r{number}", "prompt": f"question {number}"})
        await asyncio.to_thread(
            wait_until, lambda: len(answers(peer, "esp")) >= requests, "every answer", LIMIT_S
        )
        took_s, broker_s = time.monotonic() - began_s, cpu_s(process) - before_s
        sent = await asyncio.to_thread(_settled, peer) - sent_before
        return Found([one["node"] for one in answers(peer, "esp")], took_s, sent, broker_s)


def _settled(peer: Peer) -> int:
    """How many messages the broker has sent, by the next of its reports but one."""
    seen = len(peer.on(SENT))
    wait_until(lambda: len(peer.on(SENT)) >= seen + 2, "the broker's own figures", 30)
    return int(peer.texts(SENT)[-1])
