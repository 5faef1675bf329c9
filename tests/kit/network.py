"""Computers of their own for boxes: network namespaces, each on a cable to this one that can be cut."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORK = "10.213.{site}.{host}"


class Cable:
    """Between this computer (``here``) and the namespace ``name``, whose commands begin with ``inside``."""

    def __init__(self, place: int) -> None:
        site = os.getpid() % 250 + 1  # tests that run beside each other have networks of their own
        self.name = f"edged-{os.getpid()}-{place}"
        self._device = f"ed{os.getpid() % 100000}x{place}"
        self.here = NETWORK.format(site=site, host=4 * place + 1)
        self._there = NETWORK.format(site=site, host=4 * place + 2)

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def lay(self) -> None:
        """Make the namespace and connect it; raises OSError where that is not permitted."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("address", "add", f"{self.here}/30", "dev", self._device)
        _ip("link", "set", self._device, "up")
        _ip("-n", self.name, "address", "add", f"{self._there}/30", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told."""
        _ip("link", "set", self._device, "down")

    def mend(self) -> None:
        _ip("link", "set", self._device, "up")

    def remove(self) -> None:
        for words in (("link", "del", self._device), ("netns", "del", self.name)):
            with contextlib.suppress(OSError):
                _ip(*words)


@contextlib.contextmanager
def cables(count: int) -> Iterator[list[Cable]]:
    """So many computers; raises OSError where this one may not have them."""
    laid = [Cable(place) for place in range(count)]
    try:
        for cable in laid:
            cable.lay()
        yield laid
    finally:
        for cable in laid:
            cable.remove()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
