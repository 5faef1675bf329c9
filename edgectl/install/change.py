"""All or nothing: runs operations under a journal, undoes them when one fails or the process is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from typing import TYPE_CHECKING

import msgspec

from edgectl.errors import EdgeError, NeedsRoot, RollbackFailed, RolledBack
from edgectl.install.host import heedless
from edgectl.install.operations import Recorded
from edgectl.models.storage import storage_errors
from edged.api.errors import Busy
from edged.host.files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgectl.install.host import Host, Say

JOURNAL = "change.jsonl"
COMMITTED = b'"committed"'
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[tuple[Path, ...]]:
    """Hold ``folder`` for this process alone; gives the folders around it that had to be made.

    They go again when nothing was left in them.

    Raises Busy when another installation is under way, NeedsRoot when ``folder`` may not be written.
    """
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    try:
        with storage_errors("preparing the change", folder):
            for path in missing:
                path.mkdir(exist_ok=True, mode=0o755)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise NeedsRoot(f"{folder} may not be written", hint="run the same command with sudo") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                "another edgectl changes this installation", hint="wait for it, then try again"
            ) from None
        yield tuple(path for path in missing if path != folder)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty: something is installed, or left to be undone
            for path in (folder, *(path for path in reversed(missing) if path != folder)):
                path.rmdir()


def carry_out(operations: Sequence[Recorded], folder: Path, host: Host, say: Say) -> None:
    """Do all ``operations``, or leave everything as it was.

    Raises RolledBack when one failed or the person stopped it, RollbackFailed when undoing failed as well.
    The caller holds ``folder`` (see `exclusive`). What is said may stay unread: it changes nothing.
    """
    say, journal = heedless(say), Journal(folder / JOURNAL)
    try:
        for operation in operations:
            journal.record(operation)  # before it is done, so that a crash in the middle is undone too
            say(operation.describe())
            operation.do(host)
        journal.commit()
    except BaseException as error:
        if not journal.committed:
            why, hint = _reason(error)
            _undo(journal, host, say, why)
            raise RolledBack(f"{why}\nEverything is as it was before.", hint=hint) from error
        if not isinstance(error, OSError):  # stopped in the moment after the last step
            raise
    with contextlib.suppress(OSError):  # all is done; a journal that says so is as good as none
        journal.remove()


def recover(folder: Path, host: Host, say: Say) -> bool:
    """Undo what a killed process left half done; True when there was something."""
    journal = Journal(folder / JOURNAL)
    found = journal.read()
    if found is None:
        return False
    operations, committed = found
    if committed or not operations:
        journal.remove()
        return False
    _undo(journal, host, heedless(say), "an earlier run was killed")
    return True


class Journal:
    """One line for each operation that was begun, and a last one when all are done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, operation: Recorded) -> None:
        self._append(msgspec.json.encode(operation))

    def commit(self) -> None:
        self._append(COMMITTED)

    def read(self) -> tuple[list[Recorded], bool] | None:
        """What was begun, in order, and whether all of it was done; None without a journal.

        Raises RollbackFailed when a line of it cannot be understood.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return None
        whole = lines[:-1]  # a line without its end was torn by a power cut, before its operation was begun
        if COMMITTED in whole:
            return [], True
        decoder = msgspec.json.Decoder(Recorded)
        try:
            return [decoder.decode(line) for line in whole], False
        except msgspec.DecodeError as error:
            raise RollbackFailed(
                f"{self._path} says what a killed run had begun, and is damaged: {error}",
                hint="put back what its lines name as far as you can read them, remove the file, "
                "and run the same command again",
            ) from None

    @property
    def committed(self) -> bool:
        found = self.read()
        return found is not None and found[1]

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        sync_directory(self._path.parent)

    def _append(self, line: bytes) -> None:
        new = not self._path.exists()
        with self._path.open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self._path.parent)


def _undo(journal: Journal, host: Host, say: Say, why: str) -> None:
    """Undo all that the journal has, last first; what cannot be undone does not keep the rest from it."""
    found = journal.read()
    operations = found[0] if found else []
    problems: list[str] = []
    with _deaf_to_stops():
        if operations:
            say("putting everything back as it was; please wait")
        for operation in reversed(operations):
            try:
                operation.undo(host)
            except (OSError, EdgeError) as error:
                said = error.message if isinstance(error, EdgeError) else str(error)
                problems.append(f"{operation.describe()}: {said}")
        if not problems:
            journal.remove()
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise RollbackFailed(
            f"{why}\nNot everything could be undone:{listed}",
            hint="mend what is named above and run the same command again: it first undoes the rest",
        )


def _reason(error: BaseException) -> tuple[str, str]:
    """What to tell a person: what happened, and what to do about it."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by you", ""
    if isinstance(error, EdgeError):
        return error.message, error.hint
    if isinstance(error, OSError):
        return str(error), ""
    return f"unexpected {type(error).__name__}: {error}", ""


@contextlib.contextmanager
def _deaf_to_stops() -> Iterator[None]:
    """Nothing stops the way back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
