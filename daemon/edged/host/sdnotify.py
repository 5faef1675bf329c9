"""Talks to the service manager: sd_notify(3) over its datagram socket."""

from __future__ import annotations

import os
import socket

SEND_TIMEOUT_S = (
    1.0  # the manager's queue is full only when it is stuck; then no message is worth waiting for
)


def notify(state: str) -> bool:
    """Send ``state`` ("READY=1", "STATUS=...", several joined by newlines); whether it was sent.

    Without $NOTIFY_SOCKET nobody listens, and nothing happens. Never raises: a status line that the manager
    does not take is no reason to stop serving, and a lost watchdog ping is made up for by the next.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False  # sd_notify(3) also knows vsock, which is for guests of a hypervisor
    target = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(SEND_TIMEOUT_S)
            channel.sendto(state.encode(), target)
    except OSError:
        return False
    return True


def watchdog_interval_s() -> float | None:
    """How often to send "WATCHDOG=1", in seconds: half of what the manager allows (sd_watchdog_enabled(3)).

    None when the manager does not watch this process.
    """
    allowed = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0:
        return None
    if watched and watched != str(os.getpid()):
        return None
    return int(allowed) / 2 / 1_000_000
