"""The topics of a pool, and what a box listens to in which situation (pure).

Devices publish below ``<pool>/request/`` and hear ``response/``, ``stream/``, as with a single box. The rest
is between boxes::

    give/<node>/request/<client>/<op>   a request that another box hands on to this one
    spare/<kind>                        requests wait somewhere that a box of this kind could begin
    free/<kind>                         a box of this kind would begin one more: its name
    box/<node>                          retained: edged.transports.mqtt.pool_boxes

Only what may be lost is published to whoever happens to be subscribed. A request goes into the session of
one box: to the broker, a client that listens to everything looks like one that takes the request.
"""

from __future__ import annotations

from msgspec import Struct

from edged.transports.mqtt.topics import Topics

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

    def always(self, node: str) -> tuple[tuple[str, int], ...]:
        """(filter, QoS) that the box ``node`` hears for itself. Old news must not wait for it: QoS 0."""
        return (f"{self.root}/box/+", 0), (f"{self.root}/cancel/+", 0), (self.given(node), 1)

    def given(self, node: str) -> str:
        """The filter of what is handed on to ``node``."""
        return f"{self.root}/give/{node}/#"

    def box(self, node: str) -> str:
        return f"{self.root}/box/{node}"

    def free(self, kind: str) -> str:
        return f"{self.root}/free/{kind}"

    def spare(self, kind: str) -> str:
        return f"{self.root}/spare/{kind}"

    def handed(self, node: str, topic: str) -> str:
        """Where the request that came on ``topic`` goes to reach the box ``node``."""
        return f"{self.root}/give/{node}/{topic.removeprefix(f'{self.root}/')}"

    def original(self, topic: str) -> str:
        """The topic that a device published a request on, from any it may have come on."""
        parts = topic.removeprefix(f"{self.root}/").split("/", 2)
        return f"{self.root}/{parts[2]}" if len(parts) == 3 and parts[0] == "give" else topic

    def node(self, topic: str) -> str | None:
        """Whose retained message this is."""
        prefix = f"{self.root}/box/"
        return topic.removeprefix(prefix) if topic.startswith(prefix) else None

    def is_call(self, topic: str) -> bool:
        return topic.startswith(f"{self.root}/free/")

    def is_question(self, topic: str) -> bool:
        return topic.startswith(f"{self.root}/spare/")

    @property
    def calls(self) -> str:
        """The filter of calls by boxes with free slots."""
        return f"{self._shared}/free/+"

    def questions(self, kind: str) -> str:
        """The filter of questions for such calls."""
        return f"{self._shared}/spare/{kind}"

    def wanted(self, kind: str, *, intake: bool, spare: bool, surplus: bool) -> set[str]:
        """The shared subscriptions of a box that takes new work, has free slots, has more than it can do."""
        filters: set[str] = set()
        if intake:
            filters |= {f"{self._shared}/request/+/+", f"{self._shared}/ask"}
        if spare:
            filters.add(self.questions(kind))
        if surplus:
            filters.add(self.calls)
        return filters

    @property
    def _shared(self) -> str:
        return f"$share/{GROUP}/{self.root}"

    def every(self, node: str, kinds: set[str]) -> set[str]:
        """All subscriptions through which requests may come to ``node``, and those of boxes of ``kinds``."""
        return {self.given(node)}.union(
            *(self.wanted(kind, intake=True, spare=True, surplus=True) for kind in kinds or {""})
        )
