"""What keeps a candidate out, and what would bring it in."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, structs

from edgectl.planning.wishes import Wishes

__all__ = ["Miss", "MissKind", "Remedy", "wish_changes"]

MissKind = Literal[
    "unpinned", "bits", "thinking", "vision", "context", "memory", "disk", "speed", "first_token"
]


class Miss(Struct, frozen=True, kw_only=True):
    """One reason against a candidate. ``ratio`` is needed over available: 1.2 misses by a fifth."""

    kind: MissKind
    message: str
    ratio: float


class Remedy(Struct, frozen=True, kw_only=True):
    """One complete way out; None and 0 leave a thing as it is. ``text`` says it to a person.

    ``more_memory_bytes`` have to become available on the computer, ``more_group_bytes`` in the control
    group, ``more_disk_bytes`` on the disk.
    """

    text: str
    context_tokens: int | None = None
    slots: int | None = None
    min_tps: float | None = None
    max_ttft_s: float | None = None
    reserve_mib: int | None = None
    vision: bool | None = None
    more_memory_bytes: int = 0
    more_group_bytes: int = 0
    more_disk_bytes: int = 0

    def applied(self, wishes: Wishes) -> Wishes:
        """``wishes`` as this remedy changes them."""
        return structs.replace(wishes, **wish_changes(structs.asdict(self)))


def wish_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Those of ``changes`` that are changed wishes."""
    return {
        name: value
        for name, value in changes.items()
        if name in Wishes.__struct_fields__ and value is not None
    }
