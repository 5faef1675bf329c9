"""Builds the /proc, /sys and /etc of a board from one text file.

A tree file has a comment at the top and then sections:

    === proc/meminfo                       a file; its lines follow
    === sys/.../cpu{0-3}/cpu_capacity      the same file for each number
    === run/systemd/system/                a folder
    === sys/block/sda -> ../devices/x/sda  a link

``␀`` in a line stands for a NUL byte.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.tree")))
RANGE = re.compile(r"\{(\d+)-(\d+)\}")


def build(name: str, into: Path) -> Path:
    """Write tree ``name`` below ``into`` and return its root."""
    root = into / name
    for head, body in sections((HERE / f"{name}.tree").read_text(encoding="utf-8")):
        for place in expand(head):
            write(root, place, body)
    return root


def sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^=== (.+)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def expand(head: str) -> list[str]:
    found = RANGE.search(head)
    if found is None:
        return [head]
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [head[: found.start()] + str(number) + head[found.end() :] for number in numbers]


def write(root: Path, place: str, body: str) -> None:
    path, _, target = place.partition(" -> ")
    file = root / path
    if path.endswith("/"):
        file.mkdir(parents=True, exist_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if target:
        file.symlink_to(target)
    else:
        file.write_bytes(body.replace("␀", "\0").encode())
