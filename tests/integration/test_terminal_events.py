"""Promise P14: exactly one terminal event per accepted request, in any interleaving, with a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal

import pytest

from edged.api.errors import MemoryGuard
from edged.api.events import Accepted, Delta, Failed, Finished
from edged.api.status import EngineState
from tests.kit.service import chat, fake_model, fake_tree, running_service, until

SEED = int(os.environ.get("EDGED_TEST_SEED", "20261122"))
MOVES = 150


class Client:
    """One request and everything heard about it; reads at its own pace."""

    def __init__(self, box, request, dice: random.Random) -> None:
        self.request = request
        self.heard: list = []
        self.left = False
        self._slow = dice.random() < 0.3
        self._leaves_after = dice.randint(0, 6) if dice.random() < 0.15 else None
        self.task = asyncio.create_task(self._read(box.service.submit(request)))

    async def _read(self, events) -> None:
        async for event in events:
            self.heard.append(event)
            if len(self.heard) == self._leaves_after:
                self.left = True
                await events.aclose()
                return
            if self._slow:
                await asyncio.sleep(0.005)

    def check(self) -> None:
        ends = [event for event in self.heard if isinstance(event, Finished | Failed)]
        assert len(ends) <= 1
        assert self.left or len(ends) == 1
        if ends:
            assert self.heard[-1] is ends[0]
        deltas = [event for event in self.heard if isinstance(event, Delta)]
        assert [delta.seq for delta in deltas] == list(range(len(deltas)))
        assert sum(isinstance(event, Accepted) for event in self.heard) <= 1
        if deltas or (ends and isinstance(ends[0], Finished)):
            assert isinstance(self.heard[0], Accepted)
        text = "".join(delta.text for delta in deltas)
        # Streams never mix: what is said is the beginning of this client's own answer.
        assert f"echo: {self.request.messages[0].content}".startswith(text)
        if ends and isinstance(ends[0], Finished):
            assert ends[0].text == text


# What may happen, and how often in proportion.
WEIGHTS = {
    "submit": 10, "cancel": 4, "cancel unknown": 1, "die": 0.7, "stop": 0.3, "recycle": 0.7,
    "shed": 0.5, "unshed": 2, "expire": 1, "fail all": 0.3, "wait": 14,
}  # fmt: skip


async def move(box, clients: list[Client], dice: random.Random, number: int) -> None:  # noqa: C901 - a table of moves
    """One random thing happens."""
    (kind,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
    service, engine = box.service, box.engine
    match kind:
        case "submit":
            for _ in range(dice.randint(1, 3)):
                clients.append(Client(box, anything(f"{number}", len(clients), dice), dice))
        case "cancel" if clients:
            victim = dice.choice(clients[-8:])
            service.cancel(victim.request.client, victim.request.id)
        case "cancel unknown":
            assert not service.cancel("nobody", "nothing")
        case "die" | "stop" if engine.worker_pid:
            engine._backoff.failures = 0  # the subject is requests, not patience
            deadly = dice.choice([signal.SIGKILL, signal.SIGSEGV])
            with contextlib.suppress(ProcessLookupError):  # reaped, and not yet known to be
                os.kill(engine.worker_pid, deadly if kind == "die" else signal.SIGSTOP)
        case "recycle":
            engine.recycle("the test says so")
        case "shed" | "unshed":
            service.shed("memory is short" if kind == "shed" else "")
        case "expire":
            service.expire()
        case "fail all":
            service.fail_all(MemoryGuard("all of you"))
        case "wait":
            await asyncio.sleep(dice.choice([0, 0.001, 0.01, 0.1]))


def anything(text: str, number: int, dice: random.Random):
    """A request of any length, urgency and patience; ids are unique."""
    return chat(
        f"{text} {'x' * dice.choice([0, 10, 150])}",
        id=f"r{number}",
        client=f"c{dice.randint(0, 3)}",
        priority=dice.randint(0, 9),
        ttl_s=dice.choice([None, None, None, 0.01, 0.2]),
        max_tokens=dice.choice([1, 20, 500]),
    )


@pytest.mark.parametrize("round_number", range(4))
def test_every_request_ends_once_whatever_happens(tmp_path, round_number):
    seed = SEED + round_number
    print(f"seed {seed}")
    dice = random.Random(seed)

    async def scenario():
        tree = fake_tree(
            fake_model(tmp_path, step_s=0.0005),
            model={"slots": 3, "context": 512},
            limits={"queue": 6},
            engine={"hang_timeout_s": 1.5},
        )
        clients: list[Client] = []
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            for number in range(MOVES):
                await move(box, clients, dice, number)
            box.service.shed("")
            # A stopped worker is found after its patience; then everything accepted must end by itself.
            await until(lambda: all(client.task.done() for client in clients), "all to end", 15)
            await until(lambda: box.engine.running == 0, "the slots to be free", 15)
            box.engine._backoff.failures = 0
            await until(lambda: box.engine.state is EngineState.READY, "the engine", 15)
            assert box.service.idle.is_set()
            status = box.service.status()
            counters = status.counters
            assert status.queue == 0
            assert counters.accepted == counters.finished + counters.failed
            assert counters.accepted + counters.refused == len(clients)
            assert (await box.ask("at last")).text == "echo: at last"
        for client in clients:
            await client.task
            client.check()
        finished = sum(isinstance(client.heard[-1], Finished) for client in clients if client.heard)
        assert finished >= 5  # the chaos leaves something to be right about

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_reader_that_never_reads_holds_nobody_up_and_no_more_than_its_answer(tmp_path):
    async def scenario():
        answer = " ".join(map(str, range(100)))
        singly = {"stream_interval_ms": 0}  # each token is an event
        model = fake_model(tmp_path, answer=answer)
        tree = fake_tree(model, model={"slots": 1, "context": 512}, limits=singly)
        async with running_service(tree, tmp_path) as box:
            stuck = box.service.submit(chat("stuck", client="stuck", max_tokens=300))
            await anext(stuck)
            for _ in range(5):
                assert isinstance(await box.ask("others", max_tokens=300), Finished)
            events = [event async for event in stuck]
            assert len(events) == len(answer) + 1
            assert isinstance(events[-1], Finished)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_same_id_of_the_same_client_is_refused_while_the_first_runs_and_of_another_taken(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, step_s=0.005), model={"slots": 3})
        async with running_service(tree, tmp_path) as box:
            await box.ready()
            first, again, other = await asyncio.gather(
                box.ask("one", id="same"),
                box.ask("two", id="same"),
                box.ask("three", id="same", client="other"),
            )
            assert (first.text, again.code, other.text) == ("echo: one", "busy", "echo: three")
            assert (await box.ask("later", id="same")).text == "echo: later"

    asyncio.run(asyncio.wait_for(scenario(), 60))
