"""Which Host and Origin headers are ours: the defence against DNS rebinding and foreign pages."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# host or [IPv6], then an optional port (RFC 3986, section 3.2.2, without user information)
_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::(?P<port>\d{1,5}))?", re.IGNORECASE
)
_WEB_ORIGIN = re.compile(r"https?://([^/?#]+)", re.IGNORECASE)


def own_names(configured: Iterable[str], node: str) -> frozenset[str]:
    """The names by which clients may call this computer: loopback, host and node name, those ``configured``.

    Host and node name also with .local, as mDNS announces them.
    """
    hostname = socket.gethostname().lower()
    short = {hostname.split(".")[0], node.lower()}
    mdns = {f"{name}.local" for name in short}
    return frozenset({"localhost", hostname, *short, *mdns, *map(canonical, configured)})


def canonical(host: str) -> str:
    """Lower case, no final dot, addresses in their shortest form, IPv4 in IPv6 as IPv4."""
    name = host.lower().removesuffix(".").partition("%")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def is_own_host(host_header: str, names: frozenset[str], local_address: str) -> bool:
    """Whether ``host_header`` names this computer: by name, by address or as loopback."""
    match = _AUTHORITY.fullmatch(host_header)
    if match is None:
        return False
    host = canonical(match["v6"] or match["name"])
    return host in names or host == canonical(local_address) or _is_loopback(host)


def is_own_origin(origin: str, host_header: str) -> bool:
    """Whether a page of ``origin`` was served by the same host and port that it now asks."""
    match = _WEB_ORIGIN.fullmatch(origin)
    return match is not None and match[1].lower() == host_header.lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
