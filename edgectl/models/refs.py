"""The manifests of stored models: which name stands for which bytes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edgectl.models.names import is_filename, is_model_id, is_quant, is_sha256

if TYPE_CHECKING:
    from pathlib import Path

MAX_MANIFEST_BYTES = 64 << 10  # a manifest has about 500 bytes


class Ref(Struct, frozen=True, kw_only=True):
    """One stored model. ``source`` says where the bytes came from, ``added_at`` is UTC in ISO 8601."""

    model: str
    quant: str
    filename: str
    sha256: str
    size_bytes: int
    source: str
    added_at: str
    licence: str = ""

    @property
    def spec(self) -> str:
        """The name to type: ``model:quant``."""
        return f"{self.model}:{self.quant}"


def ref_path(folder: Path, model: str, quant: str) -> Path:
    """The manifest of checked names in the refs folder ``folder``."""
    return folder / model / f"{quant}.json"


def read_ref(path: Path) -> Ref | None:
    """The manifest at ``path``; None when it is no regular file, damaged, or names another model.

    Raises OSError when it cannot be read.
    """
    try:
        ref = msgspec.json.decode(_read_small(path), type=Ref)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    names_fit = (ref.model, ref.quant) == (path.parent.name, path.stem)
    valid = (
        is_model_id(ref.model) and is_quant(ref.quant) and is_sha256(ref.sha256) and is_filename(ref.filename)
    )
    return ref if names_fit and valid and ref.size_bytes >= 0 else None


def list_refs(folder: Path) -> tuple[tuple[Ref, ...], tuple[Path, ...]]:
    """All manifests under ``folder``, sorted by name, and the paths there that are none."""
    refs: list[Ref] = []
    broken: list[Path] = []
    for model in _entries(folder):
        if model.is_symlink() or not model.is_dir():
            broken.append(model)
            continue
        for path in _entries(model):
            ref = read_ref(path) if path.suffix == ".json" else None
            if ref is not None:
                refs.append(ref)
            elif not path.name.startswith("."):  # a write under way
                broken.append(path)
    return tuple(refs), tuple(broken)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _read_small(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            return b""
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        return file.read(MAX_MANIFEST_BYTES)
