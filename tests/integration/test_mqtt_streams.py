"""Several answers that stream at once over one connection, on a real mosquitto."""

from __future__ import annotations

import asyncio

import pytest

from edged.api.events import Accepted, Delta, Finished, Timings, Usage
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import ROOT, answering

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

STEPS = 12
CLIENTS = ("first", "second", "third")


class Stepping(ScriptedService):
    """All answers get their next letter in the same turn of the loop, as a step of the engine gives it."""

    def __init__(self) -> None:
        super().__init__()
        self._next = asyncio.Event()

    def step(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def submit(self, request):
        yield Accepted(id=request.id, position=0, eta_s=None)
        for seq in range(STEPS):
            await self._next.wait()
            yield Delta(id=request.id, seq=seq, text="x")
        yield Finished(
            id=request.id, text="x" * STEPS, finish="stop",
            usage=Usage(prompt_tokens=1, completion_tokens=STEPS),
            timings=Timings(queue_ms=0.0, first_ms=1.0, total_ms=2.0),
        )  # fmt: skip


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_each_of_several_streams_gets_its_piece_of_every_step(tmp_path, version):
    async def scenario(broker):
        service = Stepping()
        async with answering(broker, version=version, service=service) as (_, _, peer):

            def heard(client):
                return peer.documents(f"{ROOT}/stream/{client}")

            for client in CLIENTS:
                peer.send(f"{ROOT}/request/{client}/chat", {"id": "1", "prompt": "x", "stream": True})
                await until(lambda client=client: heard(client), f"{client} is accepted")
            for step in range(1, STEPS):
                service.step()
                for client in CLIENTS:
                    said = await until(
                        lambda client=client, step=step: (found := heard(client))[step:] and found,
                        f"piece {step} of {client}",
                    )
                    assert [one.get("delta") for one in said[1:]] == ["x"] * step
            service.step()
            for client in CLIENTS:
                assert (await peer.wait(f"{ROOT}/response/{client}/chat"))[0]["text"] == "x" * STEPS

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))
