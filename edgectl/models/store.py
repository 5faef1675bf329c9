"""The model store: files named by their hash, names that point at them, nothing visible unverified.

blobs/sha256-<hex>            a verified model file, mode 0644
blobs/damaged-<hex>           one that no longer matches its hash; nothing loads it
refs/<model>/<quant>.json     a name for a blob (:class:`edgectl.models.refs.Ref`)
partial/*.part                unfinished downloads (kept, resumable) and imports (removed)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edgectl.errors import EdgeError, IntegrityError, NotFound, StorageFailed, Usage
from edgectl.models.blobs import BlobState, examine
from edgectl.models.names import check_model_id, check_quant, check_sha256, is_filename
from edgectl.models.partial import Partial, copy_into, is_locked, remove_if_idle
from edgectl.models.refs import Ref, list_refs, read_ref, ref_path
from edgectl.models.storage import require_space, storage_errors
from edged.host.files import sync_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["CheckedBlob", "Ref", "Store", "Unfinished"]


class CheckedBlob(Struct, frozen=True, kw_only=True):
    """What :meth:`Store.verify` found out about one name."""

    ref: Ref
    state: BlobState
    detail: str = ""


class Unfinished(Struct, frozen=True, kw_only=True):
    """A partial file that no process holds."""

    path: Path
    size_bytes: int
    age_s: float


class Store:
    """The model files of one machine, under ``root``. Nothing is created before the first write.

    ``root`` itself may be a link to another disk; nothing below it may be a link.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._refs = root / "refs"
        self._partials = root / "partial"

    # --- reading -------------------------------------------------------------------------

    def list(self) -> tuple[Ref, ...]:
        """All names, sorted."""
        return self._list()[0]

    def broken(self) -> tuple[Path, ...]:
        """What lies among the manifests and is none."""
        return self._list()[1]

    def find(self, model: str, quant: str | None = None) -> Ref | None:
        """The name ``model:quant``, whose file is there; None when there is none.

        Without ``quant`` the model must have only one. Raises Usage when it has several or the name is none.
        """
        check_model_id(model)
        if quant is not None:
            check_quant(quant)
        found = [
            ref
            for ref in self.list()
            if ref.model == model and (quant is None or ref.quant.lower() == quant.lower()) and self.has(ref)
        ]
        if len(found) > 1:
            listed = ", ".join(ref.spec for ref in found)
            raise Usage(f"{model!r} is stored in {len(found)} quantizations", hint=f"name one of: {listed}")
        return found[0] if found else None

    def path_of(self, ref: Ref) -> Path:
        """Where the bytes of ``ref`` lie. Raises Usage when its hash is none."""
        return self._blobs / f"sha256-{check_sha256(ref.sha256)}"

    def has(self, ref: Ref) -> bool:
        """Whether the file of ``ref`` is there, a regular file of the right size."""
        return self.has_blob(ref.sha256, ref.size_bytes)

    def has_blob(self, sha256: str, size_bytes: int | None = None) -> bool:
        try:
            found = (self._blobs / f"sha256-{check_sha256(sha256)}").stat(follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and size_bytes in (None, found.st_size)

    def unfinished(self) -> tuple[Unfinished, ...]:
        """Partial files that no process works on."""
        now = time.time()
        found = []
        for path in self._partial_files():
            with contextlib.suppress(OSError):
                status = path.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and not is_locked(path):
                    found.append(
                        Unfinished(
                            path=path, size_bytes=status.st_size, age_s=max(0.0, now - status.st_mtime)
                        )
                    )
        return tuple(found)

    def nameless(self) -> tuple[Path, ...]:
        """Files among the blobs that nothing loads: of a writer that was killed, or set aside as damaged.

        Where a manifest cannot be read nobody knows which file it names, and only damaged ones are told.
        """
        refs, broken = self._list()
        named = {self.path_of(ref) for ref in refs}
        prefixes = ("damaged-",) if broken else ("damaged-", "sha256-")
        if self._blobs.is_symlink() or not self._blobs.is_dir():
            return ()
        found = (path for path in self._blobs.iterdir() if path.name.startswith(prefixes))
        return tuple(sorted(path for path in found if path not in named))

    # --- writing -------------------------------------------------------------------------

    def partial(self, key: str) -> Partial:
        """The resumable file for ``key``, a SHA-256. Raises Busy on entry when another process writes it."""
        self._prepare()
        return Partial(self._partials / f"{check_sha256(key)}.part", keep=True)

    def new_partial(self) -> Partial:
        """A file that disappears unless it is published."""
        self._prepare()
        return Partial(self._partials / f"import-{os.getpid()}-{os.urandom(4).hex()}.part", keep=False)

    def publish(self, written: Partial, ref: Ref) -> Ref:
        """Make the bytes of ``written`` loadable under the name of ``ref``, replacing what it named before.

        Raises IntegrityError, and removes the bytes, when they are not the ones ``ref`` describes.
        """
        self._check(ref)
        if (written.sha256, written.size_bytes) != (ref.sha256, ref.size_bytes):
            written.discard()
            raise IntegrityError(
                f"the file for {ref.spec} has SHA-256 {written.sha256} and {written.size_bytes:,} bytes, "
                f"not {ref.sha256} and {ref.size_bytes:,}",
                hint="nothing was stored; fetch it again, from another source if it repeats",
            )
        with self._locked():
            written.move_to(self.path_of(ref))
            self._damaged_path(ref.sha256).unlink(missing_ok=True)
            with storage_errors("storing the model", self._blobs):
                sync_directory(self._blobs)
            self._write_ref(ref)
        return ref

    def adopt(self, ref: Ref) -> Ref:
        """Name bytes that are already in the store. Raises IntegrityError when they are damaged."""
        self._check(ref)
        if examine(self.path_of(ref), ref.sha256)[0] != "ok":
            self._quarantine(ref)
            raise IntegrityError(f"the stored file of {ref.spec} is damaged", hint="fetch it again")
        with self._locked():
            self._write_ref(ref)
        return ref

    def add_file(
        self,
        path: Path,
        describe: Callable[[Path, str, int], Ref],
        progress: Callable[[int], None] | None = None,
    ) -> Ref:
        """Copy the file at ``path`` into the store.

        ``describe(copy, sha256, size_bytes)`` looks at the copy and names it, or raises to refuse it.
        Raises NotFound, NoSpace, StorageFailed or IntegrityError; then nothing is stored.
        """
        try:
            source = path.open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise NotFound(
                f"there is no file {path}", hint="check the path; is the USB stick mounted?"
            ) from None
        except OSError as error:
            raise StorageFailed(
                f"{path} cannot be read: {error.strerror}", hint="check its owner and mode"
            ) from None
        with source:
            require_space(self.root, os.fstat(source.fileno()).st_size, path.name)
            with self.new_partial() as copy:
                copy_into(copy, source.fileno(), path, progress)
                return self.publish(copy, describe(copy.path, copy.sha256, copy.size_bytes))

    def remove(self, ref: Ref) -> bool:
        """Forget the name; True when its bytes went with it because no other name needs them."""
        self._check(ref)
        with self._locked(), storage_errors("removing a model", self.root):
            path = self._ref_path(ref)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other quantizations remain
                path.parent.rmdir()
            if any(other.sha256 == ref.sha256 for other in self.list()):
                return False
            for blob in (self.path_of(ref), self._damaged_path(ref.sha256)):
                blob.unlink(missing_ok=True)
            return True

    def verify(
        self, refs: Sequence[Ref] | None = None, progress: Callable[[Ref, int], None] | None = None
    ) -> Iterator[CheckedBlob]:
        """Hash the file of each name anew; a damaged one is renamed so that nothing loads it."""
        for ref in self.list() if refs is None else refs:
            report = None if progress is None else partial(progress, ref)
            state, detail = examine(self.path_of(ref), ref.sha256, report)
            if state == "damaged":
                try:
                    self._quarantine(ref)
                except EdgeError as error:  # a failing card turns read-only: still tell about the other files
                    detail += f"; it could not be set aside: {error.message}"
            yield CheckedBlob(ref=ref, state=state, detail=detail)

    def clean(self, *, downloads_older_than_s: float) -> tuple[Unfinished, ...]:
        """Remove what dead imports left, and downloads untouched for that long; what was removed."""
        removed = []
        for item in self.unfinished():
            due = item.path.name.startswith("import-") or item.age_s >= downloads_older_than_s
            if due and remove_if_idle(item.path):
                removed.append(item)
        return tuple(removed)

    def remove_nameless(self, *, keep: Callable[[Path], bool]) -> int:
        """Remove what is :meth:`nameless` but for what to ``keep``; the bytes that were freed."""
        freed_bytes = 0
        with self._locked(), storage_errors("removing files without a name", self._blobs):
            for path in self.nameless():
                if not keep(path):
                    freed_bytes += path.stat(follow_symlinks=False).st_size
                    path.unlink()
        return freed_bytes

    # --- inside --------------------------------------------------------------------------

    def _list(self) -> tuple[tuple[Ref, ...], tuple[Path, ...]]:
        if self._refs.is_symlink():
            raise _link(self._refs)
        with storage_errors("reading the model store", self._refs):
            return list_refs(self._refs)

    def _partial_files(self) -> Sequence[Path]:
        if self._partials.is_symlink() or not self._partials.is_dir():
            return ()
        return sorted(path for path in self._partials.iterdir() if path.suffix == ".part")

    def _prepare(self) -> None:
        with storage_errors("creating the model store", self.root):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, self._blobs, self._refs, self._partials):
                if folder.is_symlink() and folder != self.root:
                    raise _link(folder)
                _make_readable(folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Held for the few milliseconds in which names and files change together."""
        self._prepare()
        with storage_errors("locking the model store", self.root):
            descriptor = os.open(
                self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _check(ref: Ref) -> None:
        check_model_id(ref.model)
        check_quant(ref.quant)
        check_sha256(ref.sha256)
        if not is_filename(ref.filename):
            raise Usage(f"{ref.filename[:80]!r} is not a plain file name")

    def _ref_path(self, ref: Ref) -> Path:
        path = ref_path(self._refs, ref.model, ref.quant)
        if path.parent.is_symlink():
            raise _link(path.parent)
        return path

    def _write_ref(self, ref: Ref) -> None:
        path = self._ref_path(ref)
        with storage_errors("writing the manifest", path):
            _make_readable(path.parent)
            previous = read_ref(path) if path.exists() else None
            write_atomic(path, msgspec.json.format(msgspec.json.encode(ref), indent=2))
            replaced = previous is not None and previous.sha256 != ref.sha256
            if previous is not None and replaced and all(o.sha256 != previous.sha256 for o in self.list()):
                self.path_of(previous).unlink(missing_ok=True)

    def _damaged_path(self, sha256: str) -> Path:
        return self._blobs / f"damaged-{check_sha256(sha256)}"

    def _quarantine(self, ref: Ref) -> None:
        with self._locked(), storage_errors("setting a damaged file aside", self._blobs):
            with contextlib.suppress(FileNotFoundError):
                self.path_of(ref).replace(self._damaged_path(ref.sha256))
            sync_directory(self._blobs)


def _make_readable(folder: Path) -> None:
    """Create ``folder`` for everybody to read, whatever root's umask: the daemon runs as another user."""
    if not folder.is_dir():
        folder.mkdir()
        folder.chmod(0o755)


def _link(path: Path) -> StorageFailed:
    return StorageFailed(
        f"{path} is a symbolic link; the model store does not follow links inside itself",
        hint="to keep models on another disk, make the whole models folder a link or set EDGED_STATE",
    )
