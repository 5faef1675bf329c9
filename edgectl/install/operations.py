"""The steps of an installation: each can be described, done, and undone from its record alone.

A record holds everything that undoing needs, because the process that undoes may not be the one that did.
``undo`` is safe when ``do`` never ran, ran half, or was undone before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from edgectl.errors import CommandFailed
from edgectl.install.earlier import Earlier
from edgectl.install.manifest import manifest_text, read_text
from edgectl.install.runner import ProgramMissing
from edged.host.files import sync_directory, write_atomic

if TYPE_CHECKING:
    from edgectl.install.host import Host


class Operation(Struct, frozen=True, kw_only=True, tag_field="step"):
    """One step."""

    def describe(self) -> str:
        """What it does, as the end of "edgectl will ..."."""
        raise NotImplementedError

    def do(self, host: Host) -> None:
        raise NotImplementedError

    def undo(self, host: Host) -> None:
        """Bring back what was before."""


class CreateFolder(Operation, frozen=True, kw_only=True, tag="create-folder"):
    """Planned only for a folder that is missing."""

    path: str

    def describe(self) -> str:
        return f"create {self.path}"

    def do(self, host: Host) -> None:  # noqa: ARG002 - the shape of an operation
        path = Path(self.path)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)  # whatever root's umask says: the daemon runs as another user
        sync_directory(path.parent)

    def undo(self, host: Host) -> None:  # noqa: ARG002
        with contextlib.suppress(FileNotFoundError):
            Path(self.path).rmdir()


class PutFile(Operation, frozen=True, kw_only=True, tag="put-file"):
    """``before`` is what was there, None when there was no file; ``mode`` is of the file that is put."""

    path: str
    data: bytes
    before: Earlier | None
    mode: int = 0o644

    def describe(self) -> str:
        return f"{'write' if self.before is None else 'replace'} {self.path}"

    def do(self, host: Host) -> None:  # noqa: ARG002
        write_atomic(Path(self.path), self.data, mode=self.mode)

    def undo(self, host: Host) -> None:  # noqa: ARG002
        path = Path(self.path)
        if not path.parent.is_dir():
            return
        for torn in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        if self.before is None:
            path.unlink(missing_ok=True)
            sync_directory(path.parent)
        else:
            self.before.bring_back(path)


class PutUnit(PutFile, frozen=True, kw_only=True, tag="put-unit"):
    """A file that the service manager has to read again, after either direction."""

    def do(self, host: Host) -> None:
        super().do(host)
        host.systemd.reload()

    def undo(self, host: Host) -> None:
        super().undo(host)
        host.systemd.reload()


class PutRecord(PutFile, frozen=True, kw_only=True, tag="put-record"):
    """The manifest, last of all: it says that we turned lingering on only where the system allowed that."""

    def do(self, host: Host) -> None:
        manifest = read_text(self.data)
        data = self.data
        if manifest is not None and manifest.lingering and not host.systemd.lingers(manifest.lingering):
            data = manifest_text(structs.replace(manifest, lingering="")).encode()
        write_atomic(Path(self.path), data, mode=self.mode)


class StopService(Operation, frozen=True, kw_only=True, tag="stop-service"):
    """Planned only for a service that runs; undoing comes last and starts what is then there again.

    Only one that ``was_ready`` is waited for, at most ``timeout_s``: another one may never become ready.
    """

    was_ready: bool
    timeout_s: int

    def describe(self) -> str:
        return "stop the running edged"

    def do(self, host: Host) -> None:
        host.systemd.stop()

    def undo(self, host: Host) -> None:
        if host.systemd.state().is_active:
            return
        host.systemd.start()
        if self.was_ready:
            host.wait_ready(self.timeout_s)


class EnableService(Operation, frozen=True, kw_only=True, tag="enable-service"):
    """Planned only for a unit that is not enabled."""

    def describe(self) -> str:
        return "start edged at every boot"

    def do(self, host: Host) -> None:
        host.systemd.enable()

    def undo(self, host: Host) -> None:
        if host.systemd.state().is_enabled:
            host.systemd.disable()


class EnableLinger(Operation, frozen=True, kw_only=True, tag="enable-linger"):
    """Planned only for a user whose services end with the login. Some systems leave it to root."""

    name: str

    def describe(self) -> str:
        return f"let the services of {self.name} run without a login"

    def do(self, host: Host) -> None:
        try:
            host.systemd.set_linger(self.name, on=True)
        except ProgramMissing as error:
            host.say(f"{error.message}, so edged ends with your login")
        except CommandFailed:
            host.say(
                "you may not decide that: edged ends with your login until somebody runs"
                f" `sudo loginctl enable-linger {self.name}`"
            )

    def undo(self, host: Host) -> None:
        if host.systemd.lingers(self.name):
            host.systemd.set_linger(self.name, on=False)


class KeepState(Operation, frozen=True, kw_only=True, tag="keep-state"):
    """Remembers the state folder, which the service manager moves and the service fills.

    ``kind`` is what ``state`` was; ``names`` what it held, None when nobody may look (a dry run without
    root). A folder that becomes ``private`` is moved back, with its owner.
    """

    state: str
    private: str | None
    kind: Literal["absent", "folder", "link"]
    names: tuple[str, ...] | None = ()
    uid: int = 0
    gid: int = 0
    private_parent: bool = True  # whether the folder around `private` was there

    @classmethod
    def of(cls, state: Path, private: Path | None) -> KeepState:
        """The record of what is there now."""
        kind: Literal["absent", "folder", "link"] = "absent"
        names: tuple[str, ...] | None = ()
        uid = gid = 0
        try:
            if state.is_dir():
                kind = "link" if state.is_symlink() else "folder"
                names = tuple(sorted(entry.name for entry in state.iterdir()))
                uid, gid = state.stat().st_uid, state.stat().st_gid
        except PermissionError:
            kind, names = "link", None
        parent = private is None or private.parent.is_dir()
        return cls(
            state=str(state),
            private=None if private is None else str(private),
            kind=kind,
            names=names,
            uid=uid,
            gid=gid,
            private_parent=parent,
        )

    def describe(self) -> str:
        return f"let the service keep its state in {self.state}"

    def do(self, host: Host) -> None:
        """Nothing: the service manager does it when the service starts."""

    def undo(self, host: Host) -> None:  # noqa: ARG002
        state = Path(self.state)
        private = None if self.private is None else Path(self.private)
        if self.kind != "link" and private is not None:
            if state.is_symlink():
                state.unlink()
            if private.is_dir() and not state.exists():
                private.rename(state)
                _give(state, self.uid, self.gid)
            if not self.private_parent:
                with contextlib.suppress(OSError):  # another service moved in meanwhile
                    private.parent.rmdir()
        if self.names is None or not state.is_dir():
            return
        for entry in state.iterdir():
            if entry.name not in self.names:
                remove(entry)
        if self.kind == "absent":
            state.rmdir()


class StartService(Operation, frozen=True, kw_only=True, tag="start-service"):
    """Done when the service says that it is ready: a model is loaded and has produced a token."""

    timeout_s: int

    def describe(self) -> str:
        return f"start edged and wait until it is ready, at most {self.timeout_s} s"

    def do(self, host: Host) -> None:
        host.systemd.start()
        host.wait_ready(self.timeout_s)

    def undo(self, host: Host) -> None:
        if host.systemd.state().load != "not-found":
            host.systemd.stop()


class Prove(Operation, frozen=True, kw_only=True, tag="prove"):
    """Changes nothing, and fails the installation when no answer comes.

    ``embeds``: the model is loaded to make vectors of texts, and answers nothing else.
    """

    embeds: bool = False

    def describe(self) -> str:
        return "have it embed a text" if self.embeds else "ask it something and read the answer"

    def do(self, host: Host) -> None:
        host.prove(embeds=self.embeds)


Recorded = (
    CreateFolder
    | PutFile
    | PutUnit
    | PutRecord
    | StopService
    | EnableService
    | EnableLinger
    | KeepState
    | StartService
    | Prove
)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _give(folder: Path, uid: int, gid: int) -> None:
    """Make ``folder`` and all in it belong to ``uid`` and ``gid``."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in (*folders, *files))):
            about = path.lstat()
            if (about.st_uid, about.st_gid) != (uid, gid):
                os.lchown(path, uid, gid)
                if stat.S_ISDIR(about.st_mode):
                    path.chmod(stat.S_IMODE(about.st_mode))  # a changed owner clears special bits
