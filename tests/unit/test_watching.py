"""What goes on beside an answer over HTTP: its client may hang up, and its stream must not be silent."""

from __future__ import annotations

import asyncio

import pytest

from edged.transports.http.watching import ClientGone, Voice, connected


class Client:
    """``receive`` of an application; ``gone`` makes it tell that the client hung up."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def run(scenario) -> list[dict]:
    """What the loop had to complain about."""

    async def bounded() -> list[dict]:
        complaints: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.wait_for(scenario(), 30)
        return complaints

    return asyncio.run(bounded())


def test_a_client_that_hangs_up_ends_what_is_done_for_it_wherever_that_waits():
    async def scenario():
        client, ended = Client(), []

        async def answer():
            async with connected(client.receive):
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append(True)

        asyncio.get_running_loop().call_soon(client.gone.set)
        with pytest.raises(ClientGone):
            await answer()
        assert ended

    assert run(scenario) == []


@pytest.mark.parametrize("turns", range(6))
def test_a_client_that_hangs_up_as_its_answer_ends_leaves_nothing_behind(turns):
    async def scenario():
        client = Client()
        tasks = asyncio.all_tasks()
        try:
            async with connected(client.receive):
                await asyncio.sleep(0)
                client.gone.set()
                for _ in range(turns):
                    await asyncio.sleep(0)
        except ClientGone:
            assert turns
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks

    assert run(scenario) == []


def test_a_timeout_of_another_origin_is_no_client_that_went_away():
    async def scenario():
        with pytest.raises(TimeoutError, match="elsewhere"):
            async with connected(Client().receive):
                raise TimeoutError("elsewhere")

    assert run(scenario) == []


def test_silence_is_filled_and_nothing_to_say_is_silence():
    async def scenario():
        sent: list[bytes] = []
        filled = asyncio.Event()

        async def send(data: bytes) -> None:
            sent.append(data)
            if sent.count(b"...") == 2:
                filled.set()

        voice = Voice(send, lambda: b"...", 0.01)
        async with voice.never_silent():
            await voice.say(b"a")
            while not filled.is_set():
                await voice.say(b"")
                await asyncio.sleep(0)
        assert sent[:3] == [b"a", b"...", b"..."]

    assert run(scenario) == []


def test_no_silence_is_told_while_something_is_being_sent():
    async def scenario():
        sent: list[bytes] = []
        taken = asyncio.Event()

        async def send(data: bytes) -> None:
            sent.append(data)
            asyncio.get_running_loop().call_later(0.05, taken.set)
            await taken.wait()

        voice = Voice(send, lambda: b"...", 0.01)
        async with voice.never_silent():
            await voice.say(b"slow")
            assert sent == [b"slow"]

    assert run(scenario) == []
