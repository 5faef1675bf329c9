"""Finds edged boxes that announce themselves on the local network (multicast DNS)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from edgectl.errors import Unreachable

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_edged._tcp.local."
MAX_BOXES = 256  # what a hostile network can make us ask about
NUMBERS: dict[str, type[int | float]] = {"load": int, "tok_s": float, "context": int}
ASK_S = 1.5  # for the address and text of one box, after its name was heard


class Box(Struct, frozen=True, kw_only=True):
    """One announcement.

    ``http`` is "yes", "loopback" or "no"; ``mqtt`` is the broker as the box reaches it. ``load`` is the
    percentage of its places for requests that were taken, ``tok_s`` the speed of one answer, ``context`` in
    tokens; None where it said nothing of it.
    """

    name: str
    addresses: tuple[str, ...]
    port: int
    node: str = ""
    version: str = ""
    model: str = ""
    http: str = "no"
    path: str = ""
    auth: str = ""
    mqtt: str = ""
    topic: str = ""
    health: str = ""
    load: int | None = None
    tok_s: float | None = None
    context: int | None = None
    pool: str = ""

    @property
    def url(self) -> str | None:
        """Where its HTTP interface is reached from here; None when it is not."""
        if self.http != "yes" or not self.addresses:
            return None
        address = self.addresses[0]
        return f"http://[{address}]:{self.port}" if ":" in address else f"http://{address}:{self.port}"

    @property
    def broker(self) -> str:
        """The broker's address from here: a loopback address of the box means the box itself."""
        host, _, port = self.mqtt.rpartition(":")
        own = host in {"localhost", "::1"} or host.startswith("127.")
        return f"{self.addresses[0]}:{port}" if own and self.addresses else self.mqtt


def find_boxes(timeout_s: float, interfaces: tuple[str, ...] = ()) -> list[Box]:
    """Listen for ``timeout_s``; boxes by name. Raises Unreachable when this network has no multicast.

    ``interfaces`` are local addresses to listen on; empty: all.
    """
    return asyncio.run(_find(timeout_s, interfaces))


async def _find(timeout_s: float, interfaces: tuple[str, ...]) -> list[Box]:
    from zeroconf import InterfaceChoice
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    names: set[str] = set()

    def heard(
        zeroconf: Zeroconf,  # noqa: ARG001 - zeroconf passes these four by name
        service_type: str,  # noqa: ARG001
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change.name == "Removed":
            names.discard(name)
        elif len(names) < MAX_BOXES:
            names.add(name)

    try:
        zeroconf = AsyncZeroconf(interfaces=list(interfaces) or InterfaceChoice.All)
    except OSError as error:
        raise Unreachable(
            f"cannot listen on the local network: {error.strerror or error}",
            hint="name the box instead, with --host or --broker",
        ) from None
    try:
        browser = AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE_TYPE], handlers=[heard])
        await asyncio.sleep(timeout_s)
        await browser.async_cancel()
        found = await asyncio.gather(*(_ask(zeroconf, name) for name in sorted(names)))
    finally:
        await zeroconf.async_close()
    return [box for box in found if box is not None]


async def _ask(zeroconf: AsyncZeroconf, name: str) -> Box | None:
    info = await zeroconf.async_get_service_info(SERVICE_TYPE, name, timeout=round(ASK_S * 1000))
    return _box(info) if info else None


def _box(info: AsyncServiceInfo) -> Box:
    """``info`` as a record; what a stranger sent is text of known fields, without control characters."""
    fields = set(Box.__struct_fields__) - {"name", "addresses", "port"}
    facts: dict[str, Any] = {
        key: "".join(char for char in value if char.isprintable())
        for key, value in info.decoded_properties.items()
        if key in fields and value is not None
    }
    facts |= {key: _number(facts[key], kind) for key, kind in NUMBERS.items() if key in facts}
    name = info.name.removesuffix(f".{SERVICE_TYPE}")
    return Box(
        name="".join(char for char in name if char.isprintable()),
        addresses=tuple(sorted(info.parsed_addresses(), key=lambda one: (":" in one, one))),
        port=info.port or 0,
        **facts,
    )


def _number(text: str, kind: type[int | float]) -> float | None:
    """None for what is no number, or none that a box would say."""
    try:
        value = kind(text)
    except ValueError:
        return None
    return value if 0 <= value < 10**9 else None
