"""Host name, addresses, and the interface that leads out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.device import Network, Note
from edged.host.files import read_text
from edged.host.procfs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

ROUTE_UP = 0x1
ANYWHERE_V6 = "0" * 32


def probe(root: Path) -> tuple[Network, tuple[Note, ...]]:
    """The network, and a note when no route leads out."""
    interface = _default_interface(root)
    record = Network(
        hostname=read_text(root / "proc/sys/kernel/hostname") or "unknown",
        addresses=_addresses() if root == ROOT else (),
        default_interface=interface,
    )
    if interface:
        return record, ()
    offline = Note(
        code="no-default-route",
        message="no network route leads out of this computer",
        hint="bring model files along and use `edgectl models import`",
    )
    return record, (offline,)


def _addresses() -> tuple[str, ...]:
    """Addresses others can reach: without loopback and link-local."""
    import ipaddress
    import socket

    import psutil

    found: set[str] = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local):
                found.add(str(address))
    return tuple(sorted(found, key=lambda text: (":" in text, text)))


def _default_interface(root: Path) -> str | None:
    """The default route with the least metric, IPv4 before IPv6 (proc_pid_net(5), "route")."""
    routes: list[tuple[int, str]] = []
    for line in (read_text(root / "proc/net/route") or "").splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[1] == words[7] == "00000000" and _number(words[3], 16) & ROUTE_UP:
            routes.append((_number(words[6], 10), words[0]))
    for line in (read_text(root / "proc/net/ipv6_route") or "").splitlines() if not routes else ():
        words = line.split()
        if len(words) >= 10 and words[0] == ANYWHERE_V6 and words[1] == "00" and words[9] != "lo":
            routes.append((_number(words[5], 16), words[9]))
    return min(routes)[1] if routes else None


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0
