"""Announces this box on the local network by multicast DNS, and again when something about it changed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from typing import TYPE_CHECKING

from edged.api.status import Condition
from edged.transports.announcement import announcements, is_news

if TYPE_CHECKING:
    from collections.abc import Callable

    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    from edged.api.config import Config
    from edged.transports.announcement import Facts
    from edged.transports.port import Service

log = logging.getLogger(__name__)

# Also how long a network may have changed unnoticed; below the ten updates a minute of RFC 6762, section 8.4.
WATCH_S = 10.0
GOODBYE_S = 2.0  # the farewell is three datagrams, 125 ms apart (RFC 6762, section 10.1)


class Discovery:
    """``start`` returns at once; a network without multicast is a condition and nothing more."""

    def __init__(
        self,
        config: Config,
        service: Service,
        *,
        interfaces: tuple[str, ...] = (),
        addresses: Callable[[], tuple[str, ...]] | None = None,
        watch_s: float = WATCH_S,
    ) -> None:
        """``interfaces`` are local addresses to announce on; empty: all networks of this computer.

        ``addresses`` finds those under which the box is reached; default: those of its networks.
        """
        self._config = config
        self._service = service
        self._interfaces = interfaces
        self._find_addresses = addresses or (lambda: interfaces or local_addresses())
        self._watch_s = watch_s
        self._http_port: int | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._told: dict[str, tuple[AsyncServiceInfo, Facts]] = {}  # by service type
        self._task: asyncio.Task[None] | None = None
        self._trouble = "no attempt was made yet"

    @property
    def announced(self) -> bool:
        return not self._trouble

    def condition(self) -> Condition | None:
        if not self._trouble:
            return None
        return Condition(
            code="discovery_off",
            severity="warning",
            message=f"this box is not announced on the network: {self._trouble}",
            hint="`edgectl discover` will not find it; use its address, or set discovery.enabled = false",
        )

    async def start(self, http_port: int | None = None) -> None:
        """Announce in the background; ``http_port`` is the one that is listened on, None without HTTP."""
        self._http_port = http_port
        self._task = asyncio.get_running_loop().create_task(self._run(), name="discovery")

    async def stop(self) -> None:
        """Say goodbye, so that nobody keeps a box that is gone in their list; bounded."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._close()

    async def _run(self) -> None:
        while True:
            try:
                await self._stay_announced()
            except Exception as error:  # noqa: BLE001 - a task root: networks fail in many ways, none of them fatal
                self._fail(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            if self._trouble:
                await asyncio.sleep(self._watch_s)

    async def _stay_announced(self) -> None:
        """Announce, and tell what changes; returns when the addresses of this computer have changed."""
        try:
            addresses = self._find_addresses()
            await self._announce(addresses)
            await self._keep_up(addresses)
            log.info("the addresses of this computer changed: announcing it anew")
        finally:
            await self._close()

    async def _announce(self, addresses: tuple[str, ...]) -> None:
        # Measured: +3.2 MiB resident, which a box without discovery need not spend.
        from zeroconf import InterfaceChoice, IPVersion  # noqa: PLC0415 - paid for by those who use it
        from zeroconf.asyncio import AsyncZeroconf  # noqa: PLC0415 - the same

        if not addresses:
            raise OSError("this computer has no network address")
        four = any("." in address for address in addresses)
        self._zeroconf = AsyncZeroconf(
            interfaces=list(self._interfaces) or InterfaceChoice.All,
            ip_version=IPVersion.V4Only if four else IPVersion.V6Only,
        )
        for kind, facts in self._facts().items():
            info = self._info(kind, f"{self._config.node}.{kind}", facts, addresses)
            # A second box of the same name gets "name-2": found under a strange name beats not found.
            await (await self._zeroconf.async_register_service(info, allow_name_change=True))
            self._told[kind] = (info, facts)
            log.info("announced as %s on port %d", info.name, info.port)
        self._trouble = ""

    async def _keep_up(self, addresses: tuple[str, ...]) -> None:
        """Tell what changes about the box; returns when its addresses are not ``addresses`` any more."""
        while self._find_addresses() == addresses:
            await asyncio.sleep(self._watch_s)
            for kind, facts in self._facts().items():
                info, before = self._told[kind]
                if self._zeroconf is not None and is_news(before, facts):
                    fresh = self._info(kind, info.name, facts, addresses)
                    await (await self._zeroconf.async_update_service(fresh))
                    self._told[kind] = (fresh, facts)

    def _facts(self) -> dict[str, Facts]:
        return announcements(self._config, self._service.status(), self._http_port)

    def _info(self, kind: str, name: str, facts: Facts, addresses: tuple[str, ...]) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415 - as in _announce

        return AsyncServiceInfo(
            kind,
            name,
            port=self._http_port or self._config.mqtt.port,
            parsed_addresses=list(addresses),
            properties=dict(facts),
            server=f"{self._config.node}.local.",
        )

    def _fail(self, why: str) -> None:
        if self._trouble != why:
            log.warning("not announced on the network: %s", why)
        self._trouble = why

    async def _close(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        self._told.clear()
        if zeroconf is not None:
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(zeroconf.async_close(), GOODBYE_S)


def local_addresses() -> tuple[str, ...]:
    """Addresses of this computer on networks; loopback and link-local ones are left out."""
    import ifaddr  # noqa: PLC0415 - comes with zeroconf and is paid for with it

    found = [
        address.ip if address.is_IPv4 else address.ip[0]
        for adapter in ifaddr.get_adapters()
        for address in adapter.ips
    ]
    shown = [str(address) for address in found if _reachable(str(address))]
    return tuple(dict.fromkeys(shown))


def _reachable(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified)
