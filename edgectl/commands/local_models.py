"""What the `models` commands share: the store of this machine and the model that its configuration uses."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.commands.in_force import in_force
from edgectl.errors import NotFound, Usage
from edgectl.models.store import Store
from edged.api.errors import ConfigInvalid
from edged.host.config import load
from edged.host.paths import default_paths

if TYPE_CHECKING:
    from edgectl.models.naming import Wish
    from edgectl.models.refs import Ref
    from edgectl.planning.catalog import Catalog


def local_store() -> Store:
    return Store(default_paths().models)


def stored(store: Store, spec: str) -> Ref:
    """The name ``spec`` ("model" or "model:quant"), whether or not its file is there.

    Raises NotFound, or Usage when several quantizations match.
    """
    model, colon, quant = spec.strip().partition(":")
    refs = store.list()
    found = [
        ref
        for ref in refs
        if ref.model == model.lower() and (not colon or ref.quant.lower() == quant.lower())
    ]
    if not found:
        known = ", ".join(ref.spec for ref in refs)
        raise NotFound(
            f"there is no stored model {spec!r}",
            hint=f"stored: {known}" if known else "nothing is stored yet; `edgectl models pull` fetches one",
        )
    if len(found) > 1:
        listed = ", ".join(ref.spec for ref in found)
        raise Usage(f"{spec!r} is stored in {len(found)} quantizations", hint=f"name one of: {listed}")
    return found[0]


def stored_bytes(store: Store, sha256: str, wish: Wish) -> Ref | None:
    """A stored model with these bytes under a name that suits ``wish``."""
    return next(
        (
            ref
            for ref in store.list()
            if ref.sha256 == sha256
            and wish.model in (None, ref.model)
            and wish.quant in (None, ref.quant)
            and store.has(ref)
        ),
        None,
    )


def configured_model(config: Path | None = None) -> Path | None:
    """The file that ``[model] path`` of the configuration names; None without one.

    Raises Usage when there is a configuration that cannot be read.
    """
    path = config or default_paths().config
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Usage(
            f"{path} cannot be read, so nobody knows which model is in use: {error}",
            hint="`edgectl config check` says more; --force goes on without knowing",
        ) from error
    section = tree.get("model")
    name = section.get("path") if isinstance(section, dict) else None
    return path.parent / name if isinstance(name, str) and name else None


def switched_model(config: Path | None = None) -> Path | None:
    """The file that a job has put in place of the configured one; None where none has, or nobody knows."""
    path = config or default_paths().config
    try:
        configured = load(path)
    except ConfigInvalid:
        return None
    model = in_force(configured, path)[0].model
    return Path(model.path) if model.path != configured.model.path else None


def is_used(store: Store, ref: Ref, *used: Path | None) -> bool:
    """Whether the file of ``ref`` is one of those ``used``."""
    file = store.path_of(ref).resolve()
    return any(path is not None and path.resolve() == file for path in used)


def name_file(
    store: Store,
    catalog: Catalog,
    copy: Path,
    wish: Wish,
    *,
    filename: str,
    source: str,
    sha256: str,
    size_bytes: int,
) -> Ref:
    """The manifest for the finished ``copy`` of a file, named by the catalogue where that knows its hash.

    Raises IntegrityError for a hostile file, ModelUnusable for one that is no whole model, Usage when the
    name stands for other bytes already.
    """
    from edgectl.install.obtain import names_other_bytes, now_utc
    from edgectl.models.gguf import read_model
    from edgectl.models.naming import Wish, name_model

    header = read_model(copy)
    for entry in catalog.models:
        for file in entry.files:
            if file.sha256 == sha256:
                wish = Wish(model=wish.model or entry.id, quant=wish.quant or file.quant)
    ref = name_model(
        header, filename, wish, sha256=sha256, size_bytes=size_bytes, source=source, added_at=now_utc()
    )
    taken = next((other for other in store.list() if other.spec == ref.spec), None)
    if taken is not None and taken.sha256 != sha256 and store.has(taken):
        raise names_other_bytes(taken)
    return ref
