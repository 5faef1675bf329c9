"""What is wished of the engine between two requests: another model, a fresh worker, or none for now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edged.api.errors import Busy, ModelUnusable

if TYPE_CHECKING:
    from edged.api.config import Config


class Change:
    """A wish for another model.

    ``begun`` is set when no request goes to the old worker any more. ``settled`` has the outcome: None, or
    ModelUnusable when the new model did not become ready and the one before is loaded again.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.begun = asyncio.Event()
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def held(self) -> None:
        """The new model produced a token."""
        if not self.settled.done():
            self.settled.set_result(None)

    def failed(self, why: str) -> bool:
        """The worker with the new model ended; True when it had never become ready."""
        if self.settled.done():
            return False
        self.settled.set_exception(ModelUnusable(why))
        self.settled.exception()  # read here: nobody may be waiting for it any more
        return True


class Wishes:
    """Noted by whoever has them, granted by the engine, one after the other."""

    def __init__(self) -> None:
        self._change: Change | None = None  # waits for the worker to give way
        self._trial: Change | None = None  # was given way to, and is not settled yet
        self._unloaded = False
        self._reload = False
        self._news = asyncio.Event()

    # --- whoever has wishes ---------------------------------------------------------------

    def change(self, config: Config) -> Change:
        """Serve by ``config`` once no request is running. Raises Busy while another change is under way."""
        if self._change is not None or self._trial is not None:
            raise Busy("the model is being changed already", retry_after_s=60.0)
        self._change = Change(config)
        self.load()
        return self._change

    def withdraw(self, change: Change) -> bool:
        """Take a change back; False when it has begun."""
        if self._change is not change or change.begun.is_set():
            return False
        self._change = None
        return True

    def unload(self) -> None:
        """End the worker once no request is running, until somebody asks for one."""
        self._unloaded = True
        self._news.set()

    def load(self) -> None:
        """Have a worker, if there was none to be."""
        self._unloaded = False
        self._news.set()

    def reload(self) -> None:
        """Replace the worker by a fresh one once no request is running."""
        self._reload = True
        self.load()

    # --- the engine -----------------------------------------------------------------------

    @property
    def unloaded(self) -> bool:
        """No worker is wanted."""
        return self._unloaded

    @property
    def why(self) -> str:
        """Why the worker should give way between two requests; empty when it should not."""
        if self._change is not None:
            return f"{self._change.config.model.name} is to be served"
        if self._unloaded:
            return "the model is to be unloaded"
        return "a fresh worker was asked for" if self._reload else ""

    async def any(self) -> str:
        """Wait for a wish; why the worker should give way."""
        while not self.why:
            self._news.clear()
            await self._news.wait()
        return self.why

    async def for_a_worker(self) -> None:
        """Return when a worker is wanted."""
        while self._unloaded:
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """The worker gives way: from here on a change cannot be taken back."""
        if self._change is not None:
            self._change.begun.set()

    def grant(self) -> Change | None:
        """The next worker is about to start; the change that it is for, if there is one."""
        self.close()
        self._reload = False
        self._trial, self._change = self._change, None
        return self._trial

    def ready(self) -> None:
        """That worker produced a token."""
        if self._trial is not None:
            self._trial.held()
            self._trial = None

    def ended(self, trial: Change | None, why: str) -> bool:
        """That worker ended; True when the change it was for has failed."""
        self._trial = None
        return trial is not None and trial.failed(why)
