"""Binds the listening sockets, and says in our words why it cannot."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

from edged.api.errors import AddressMissing, ConfigInvalid, EdgeError, PortInUse

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 128
# Kernel memory per connection is bounded too; text needs no more, whatever the round trip.
SEND_BUFFER_BYTES = 65536
# A peer that lost power is noticed in about 30 s: by unacknowledged data, or by probes when nothing is sent.
USER_TIMEOUT_MS = 30_000
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 15, 5, 3
UNAVAILABLE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


async def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of ``host``, all with one port (0: a free one).

    Raises PortInUse, AddressMissing when ``host`` is no address of this computer (yet), or ConfigInvalid
    when the port is forbidden.
    """
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in await _addresses(host):
        bound_port = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bind(family, address, bound_port, dual=host == "::"))
        except OSError as error:
            failure = error
            if error.errno not in UNAVAILABLE:
                break
    if failure is not None and (not sockets or failure.errno not in UNAVAILABLE):
        for sock in sockets:
            sock.close()
        raise _explain(host, port, failure)
    return sockets


def require_loopback(sockets: Sequence[socket.socket]) -> None:
    """Close all and raise ConfigInvalid when one can be reached from outside: a name may mean any address."""
    for sock in sockets:
        address = sock.getsockname()[0]
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            for each in sockets:
                each.close()
            problem = (
                f"http.host: listens on {address}, beyond loopback, and so needs http.keys_file;"
                " `edgectl keys add NAME` makes one"
            )
            raise ConfigInvalid("the configuration", (problem,))


async def _addresses(host: str) -> list[tuple[int, str]]:
    """(family, address) for each address of ``host``, without repetition."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _missing(host, error) from None
    inet = {socket.AF_INET, socket.AF_INET6}
    return list(dict.fromkeys((info[0], str(info[4][0])) for info in found if info[0] in inet))


def _bind(family: int, address: str, port: int, *, dual: bool) -> socket.socket:
    # asyncio switches Nagle off only for sockets that say they are TCP; with it, tokens wait 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)  # noqa: FBT003 - takes no keyword
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
            (socket.TCP_KEEPIDLE, PROBE_AFTER_S),
            (socket.TCP_KEEPINTVL, PROBE_EVERY_S),
            (socket.TCP_KEEPCNT, PROBES),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(host: str, port: int, error: OSError) -> EdgeError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{host} port {port} is already in use by another program (http.port)",
            hint=f"`ss -ltnp 'sport = :{port}'` names it; stop it, or choose another http.port",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        problem = f"http.port = {port}: the operating system does not allow it; use one from 1024 up"
        return ConfigInvalid("the configuration", (problem,))
    return _missing(host, error)


def _missing(host: str, error: OSError) -> AddressMissing:
    reason = error.strerror or str(error)
    return AddressMissing(
        f"http.host = {host!r}: is no address of this computer (at the moment): {reason}",
        hint="`ip address` lists those there are; the service tries again until it comes",
    )
