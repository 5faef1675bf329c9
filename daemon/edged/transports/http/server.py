"""The life of the HTTP server: start, drain, stop; each bounded in time whatever clients do."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.server import ServerState

from edged.api.status import Condition
from edged.transports.http.auth import KeyRing
from edged.transports.http.connection import Connection, Patience
from edged.transports.http.listening import BACKLOG, listen, require_loopback
from edged.transports.http.routes import build_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from edged.api.config import Http
    from edged.transports.port import Service

log = logging.getLogger(__name__)

DRAIN_S = 4.0  # long enough for whole answers to small questions; the app waits for the others


class HttpTransport:
    """Serves ``service`` over HTTP. Single-use: start, then drain (optional), then stop."""

    def __init__(self, config: Http, service: Service, patience: Patience | None = None) -> None:
        self._config = config
        self._service = service
        self._patience = patience or Patience()
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []
        self._lost = asyncio.Event()
        self._ring: KeyRing | None = None

    async def start(self) -> None:
        """Bind, then serve. Raises PortInUse, AddressMissing or ConfigInvalid; then nothing is open."""
        self._ring = KeyRing(Path(self._config.keys_file)) if self._config.keys_file else None
        sockets = await listen(self._config.host, self._config.port)
        if self._ring is None:
            require_loopback(sockets)
        app = build_app(self._config, self._service, self._ring, self._patience)
        settings = self._settings(app)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            server = await loop.create_server(lambda: self._connection(settings), sock=sock, backlog=BACKLOG)
            self._servers.append(server)
        log.info("listening: http=%s:%d auth=%s", *self.address, "keys" if self._ring else "none")

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) of the first listening socket; only while serving."""
        host, port, *_ = self._servers[0].sockets[0].getsockname()
        return str(host), int(port)

    def condition(self) -> Condition | None:
        """What is wrong with the keys, if anything is."""
        if self._ring is None or not self._ring.trouble:
            return None
        return Condition(
            code="keys_not_read",
            severity="error",
            message=self._ring.trouble,
            hint="the keys of before stay in force until `edgectl keys list` reads the file again",
        )

    async def drain(self, within_s: float = DRAIN_S) -> None:
        """Accept no more; close idle connections; give answers under way up to ``within_s``."""
        self._close_listeners()
        for connection in self._connections():
            connection.hang_up()
        deadline = asyncio.get_running_loop().time() + within_s
        while self._state.connections:
            self._lost.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._lost.wait()
            except TimeoutError:
                log.info("drain: %d connections still open", len(self._state.connections))
                return

    async def stop(self) -> None:
        """Cut every connection; request tasks notice, release their slots and end. Safe to call twice."""
        await self.drain(self._patience.farewell_s)  # what just failed may still say so
        for connection in self._connections():
            connection.abort()
        await self._end_tasks()

    def _close_listeners(self) -> None:
        for server in self._servers:
            server.close()

    async def _end_tasks(self) -> None:
        """Tasks end by themselves once their connection is gone; those that do not are cancelled."""
        for attempt in ("hang-up", "cancel"):
            if not self._state.tasks:
                return
            _, stuck = await asyncio.wait(self._state.tasks, timeout=self._patience.stop_s)
            for task in stuck:
                log.warning("stop: a request task outlived its %s", attempt)
                task.cancel()

    def _connections(self) -> list[Connection]:
        return [item for item in self._state.connections if isinstance(item, Connection)]

    def _connection(self, settings: uvicorn.Config) -> Connection:
        return Connection(
            config=settings,
            state=self._state,
            patience=self._patience,
            limit=self._config.max_connections,
            on_lost=self._lost.set,
        )

    def _settings(self, app: ASGIApp) -> uvicorn.Config:
        settings = uvicorn.Config(
            app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            log_level=logging.CRITICAL,  # Boundary logs what fails, once
            access_log=False,
            server_header=False,
            timeout_keep_alive=self._patience.keep_alive_s,  # type: ignore[arg-type]  # any number of seconds
        )
        settings.load()
        return settings
