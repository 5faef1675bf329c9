"""Writes a configuration as edged.toml: what differs from the defaults, and nothing secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from edged.api.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = """\
# Written by edgectl install. You may edit it: a later install keeps what you set, except for what it plans
# itself (model, memory, plan) and what you ask it for. What is not here has its default;
# `edgectl config show` prints everything that is in force, `edgectl config explain KEY` says what a key does.
"""


def config_text(config: Config) -> str:
    """``config`` as TOML; read again it is equal to ``config``."""
    lines = [HEADER]
    lines += _table(config, Config(), "")
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(value: Struct, default: Struct, name: str) -> Iterator[str]:
    """The keys of one table, then the tables in it."""
    plain, tables = [], []
    for key in value.__struct_fields__:
        ours, theirs = getattr(value, key), getattr(default, key)
        if isinstance(ours, Struct):
            tables.append((ours, theirs, f"{name}.{key}".lstrip(".")))
        elif isinstance(ours, dict):
            tables += [
                (table, type(table)(), f"{name}.{key}.{entry}".lstrip(".")) for entry, table in ours.items()
            ]
        elif ours != theirs and ours is not None:
            plain.append(f"{key} = {toml(ours)}")
    if plain:
        yield from ([f"[{name}]"] if name else [])
        yield from plain
        yield ""
    for table, standard, inner in tables:
        yield from _table(table, standard, inner)


def toml(value: Any) -> str:
    """One TOML value. JSON writes strings, numbers, booleans and lists the same way, but for U+007F."""
    items = list(value) if isinstance(value, tuple) else value
    return json.dumps(items, ensure_ascii=False).replace("\x7f", "\\u007f")
