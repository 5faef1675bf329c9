"""Announces this box on the local network by multicast DNS, as ``_edged._tcp``."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from typing import TYPE_CHECKING

from edged.api.status import Condition
from edged.host.config import is_loopback

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

    from edged.api.config import Config
    from edged.transports.port import Service

log = logging.getLogger(__name__)

SERVICE_TYPE = "_edged._tcp.local."
RETRY_S = 60.0  # a box that boots before its network has an address soon after
GOODBYE_S = 2.0  # the farewell is three datagrams, 125 ms apart (RFC 6762, section 10.1)
MAX_TXT_BYTES = 255  # of one key=value pair (RFC 6763, section 6.1)


class Discovery:
    """``start`` returns at once; a network without multicast is a condition and nothing more."""

    def __init__(self, config: Config, service: Service, *, interfaces: tuple[str, ...] = ()) -> None:
        """``interfaces`` are local addresses to announce on; empty: all networks of this computer."""
        self._config = config
        self._service = service
        self._interfaces = interfaces
        self._http_port: int | None = None
        self._zeroconf: AsyncZeroconf | None = None
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
                await self._announce()
            except Exception as error:  # noqa: BLE001 - a task root: networks fail in many ways, none of them fatal
                await self._close()
                self._fail(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            else:
                return
            await asyncio.sleep(RETRY_S)

    async def _announce(self) -> None:
        # Measured: +3.2 MiB resident, which a box without discovery need not spend.
        from zeroconf import InterfaceChoice, IPVersion  # noqa: PLC0415 - paid for by those who use it
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415 - the same

        addresses = self._interfaces or local_addresses()
        if not addresses:
            raise OSError("this computer has no network address")
        four = any("." in address for address in addresses)
        self._zeroconf = AsyncZeroconf(
            interfaces=list(self._interfaces) or InterfaceChoice.All,
            ip_version=IPVersion.V4Only if four else IPVersion.V6Only,
        )
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._config.node}.{SERVICE_TYPE}",
            port=self._http_port or self._config.mqtt.port,
            parsed_addresses=list(addresses),
            properties=facts(self._config, self._service, self._http_port),
            server=f"{self._config.node}.local.",
        )
        # A second box of the same name gets "name-2": found under a strange name beats not found.
        await (await self._zeroconf.async_register_service(info, allow_name_change=True))
        self._trouble = ""
        log.info("announced as %s on port %d", info.name, info.port)

    def _fail(self, why: str) -> None:
        if self._trouble != why:
            log.warning("not announced on the network: %s", why)
        self._trouble = why

    async def _close(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(zeroconf.async_close(), GOODBYE_S)


def facts(config: Config, service: Service, http_port: int | None) -> dict[str, str]:
    """The TXT record (RFC 6763, section 6): what a client needs to know before it connects.

    ``http`` is ``no``, ``loopback`` (only the box itself can use it) or ``yes``; ``path`` and ``auth``
    belong to it. ``mqtt`` is the broker as the box reaches it, ``topic`` the root of its topics.
    """
    info = service.info()
    found = {
        "node": config.node,
        "version": info.version,
        "model": f"{info.model.name} {info.model.quant}".strip(),
        "http": "no",
    }
    if http_port is not None:
        found["http"] = "loopback" if is_loopback(config.http.host) else "yes"
        found["path"] = "/v1"
        found["auth"] = "yes" if config.http.keys_file else "no"
    if config.mqtt.enabled:
        found["mqtt"] = f"{config.mqtt.host}:{config.mqtt.port}"
        found["topic"] = f"{config.mqtt.base}/{config.node}"
    return {key: _cut(value, MAX_TXT_BYTES - len(key) - 1) for key, value in found.items()}


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


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")
