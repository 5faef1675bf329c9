"""A wish for another model: it waits for the worker to give way, is tried, and holds or is taken back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edged.api.errors import ModelUnusable

if TYPE_CHECKING:
    from edged.api.config import Config


class Change:
    """``begun`` is set when no request goes to the old worker any more; ``settled`` has the outcome."""

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
