"""A real service with a real worker process, in the test's own event loop, without transports."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from edged.api.requests import Message, Request, Sampling
from edged.engine.supervisor import EngineSupervisor
from edged.guard.sampler import Sampler
from edged.host.config import parse
from edged.service import EdgeService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from edged.api.events import Event, Failed, Finished

DEADLINE_S = 30.0


class Box:
    """The parts a test may poke."""

    def __init__(self, service: EdgeService, engine: EngineSupervisor) -> None:
        self.service = service
        self.engine = engine

    async def ready(self) -> None:
        await until(lambda: self.service.ready, "the service to be ready")

    async def ask(self, text: str, **fields: Any) -> Finished | Failed:
        """The terminal event of one chat."""
        return (await self.events(chat(text, **fields)))[-1]  # type: ignore[return-value]

    async def events(self, request: Request) -> list[Event]:
        return [event async for event in self.service.submit(request)]


_serial = iter(range(10**9))


def chat(text: str, **fields: Any) -> Request:
    """A chat request with a fresh id, greedy unless told otherwise."""
    fields.setdefault("id", f"r{next(_serial)}")
    fields.setdefault("client", "test")
    fields.setdefault("sampling", Sampling(temperature=0.0))
    return Request(op="chat", messages=(Message(role="user", content=text),), **fields)


def fake_model(folder: Path, **script: Any) -> Path:
    """A model file of the fake engine; keys are those of edged.worker.backends.fake.Script."""
    path = folder / f"model-{next(_serial)}.fake"
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in script.items()))
    return path


def long_text(chars: int) -> str:
    """An answer of so many characters that does not run in a circle, which would end it."""
    return " ".join(map(str, range(chars)))[:chars]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


@contextlib.asynccontextmanager
async def running_service(tree: dict[str, Any], state_dir: Path) -> AsyncIterator[Box]:
    """A service over ``tree`` (as in edged.toml). Its engine is gone when the block ends."""
    config = parse(tree)
    service = EdgeService(config, sampler=Sampler(config.memory))
    engine = EngineSupervisor(
        config, state_dir=state_dir, place=lambda _pid: None, on_change=service.dispatch
    )
    service.attach(engine)
    task = asyncio.create_task(engine.run())
    try:
        yield Box(service, engine)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def fake_tree(path: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration for the fake engine, with nothing for the self-test to try."""
    tree: dict[str, Any] = {
        "node": "box",
        "model": {
            "path": str(path),
            "backend": "fake",
            "name": "fake",
            "slots": 4,
            "threads": 1,
            "repack": "off",
        },
    }
    for section, values in sections.items():
        tree.setdefault(section, {}).update(values)
    return tree


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str, limit_s: float = DEADLINE_S
) -> Any:
    """Wait for ``condition`` to hold; fails the test, naming ``what``, when it does not."""
    try:
        async with asyncio.timeout(limit_s):
            while True:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {limit_s:.0f} s in vain for {what}") from None
