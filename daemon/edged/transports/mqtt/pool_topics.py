"""The topics of a pool, and what a box listens to in which situation (pure).

Devices publish below ``<pool>/request/`` and hear ``response/``, ``stream/``, as with a single box. The rest
is between boxes::

    kind/<kind>/request/<client>/<op>    a request for any box of this kind, however much it has to do
    spare/<kind>/request/<client>/<op>   a request for a box of this kind that has a free slot
    free/<kind>                          a box of this kind has free slots: how many
    box/<node>                           retained: edged.transports.mqtt.pool_boxes
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edged.transports.mqtt.topics import Topics

Way = Literal["kind", "spare"]
GROUP = "edged"  # of the shared subscriptions; the topics already tell pools apart


class PoolTopics(Struct, frozen=True):
    """``base`` and ``name`` make the root, as base and node do for a single box."""

    base: str
    name: str

    @property
    def root(self) -> str:
        return f"{self.base}/{self.name}"

    @property
    def plain(self) -> Topics:
        """The topics of requests and answers, which are those of a box with the pool's name."""
        return Topics(self.base, self.name)

    @property
    def always(self) -> tuple[tuple[str, int], ...]:
        """(filter, QoS) that every box hears for itself. At QoS 0: old news must not wait for anybody."""
        return (f"{self.root}/box/+", 0), (f"{self.root}/cancel/+", 0)

    def box(self, node: str) -> str:
        return f"{self.root}/box/{node}"

    def free(self, kind: str) -> str:
        return f"{self.root}/free/{kind}"

    def handed(self, way: Way, kind: str, topic: str) -> str:
        """Where the request that came on ``topic`` goes to reach a box of ``kind``."""
        return f"{self.root}/{way}/{kind}/{topic.removeprefix(f'{self.root}/')}"

    def original(self, topic: str) -> str:
        """The topic that a device published a request on, from any it may have come on."""
        parts = topic.removeprefix(f"{self.root}/").split("/", 2)
        return f"{self.root}/{parts[2]}" if len(parts) == 3 and parts[0] in {"kind", "spare"} else topic

    def node(self, topic: str) -> str | None:
        """Whose retained message this is."""
        prefix = f"{self.root}/box/"
        return topic.removeprefix(prefix) if topic.startswith(prefix) else None

    def freed(self, topic: str) -> str | None:
        """The kind of box that called for work."""
        prefix = f"{self.root}/free/"
        return topic.removeprefix(prefix) if topic.startswith(prefix) else None

    def spared(self, topic: str) -> bool:
        """Whether it came because this box had a free slot."""
        return topic.startswith(f"{self.root}/spare/")

    def wanted(self, kind: str, *, intake: bool, spare: bool, surplus: bool) -> set[str]:
        """The shared subscriptions of a box that takes new work, has free slots, has more than it can do."""
        shared = f"$share/{GROUP}/{self.root}"
        filters: set[str] = set()
        if intake:
            filters |= {f"{shared}/request/+/+", f"{shared}/ask", f"{shared}/kind/{kind}/#"}
        if spare:
            filters.add(f"{shared}/spare/{kind}/#")
        if surplus:
            filters.add(f"{shared}/free/+")
        return filters

    def every(self, kinds: set[str]) -> set[str]:
        """All shared subscriptions that boxes of ``kinds`` may have."""
        return set[str]().union(
            *(self.wanted(kind, intake=True, spare=True, surplus=True) for kind in kinds or {""})
        )
