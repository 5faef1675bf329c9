"""Where the running edged lies, and what a service must see of the disk to run the same code."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))  # what ProtectHome= takes away (systemd.exec(5))
FLEETING = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))  # noqa: S108 - named to refuse them
SYSTEM = (Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/bin"), Path("/usr/bin"))
ROOTS = frozenset(Path(path) for path in ("/", "/usr", "/usr/local"))  # prefixes of the system's own Python
SKIPPED = frozenset({"__pycache__", "node_modules"})
MOST_LINKS = 40  # the kernel's own bound, path_resolution(7)
MOVE = (
    "install edged where services can read it: sudo python3 -m venv /opt/edged &&"
    " sudo /opt/edged/bin/pip install 'CHECKOUT[daemon]'"
)


class Code(Struct, frozen=True, kw_only=True):
    """``command`` starts edged; ``places`` are the folders and links its code is loaded through."""

    command: tuple[str, ...]
    places: tuple[Path, ...]

    @property
    def hidden(self) -> tuple[Path, ...]:
        """The outermost of ``places`` below a home, which ProtectHome= would take away."""
        return _outermost(path for path in self.places if under(path, HIDDEN))


def running_code() -> Code:
    """The code of this very process: its interpreter, its packages, and a checkout if it runs from one."""
    # The first entry is the folder of the script or, with -m, the one we happen to stand in, such as a home.
    search_path = sys.path if sys.flags.safe_path else sys.path[1:]
    return code_of(Path(sys.executable), (Path(sys.prefix), Path(sys.base_prefix)), search_path)


def code_of(executable: Path, prefixes: Iterable[Path], search_path: Iterable[str]) -> Code:
    """The code that ``executable`` runs with these prefixes and this ``sys.path``."""
    script = executable.parent / "edged"
    command = (str(script),) if script.is_file() else (str(executable), "-P", "-m", "edged")
    folders = [*prefixes, *(Path(entry) for entry in search_path if entry)]
    places = {path.absolute() for path in folders if path.is_dir()}
    places |= {path.resolve() for path in places}
    places |= set(_links(executable))
    return Code(command=command, places=tuple(sorted(places)))


def require_lasting(code: Code) -> None:
    """Raises Usage when the code lies where a reboot removes it."""
    for path in code.places:
        if under(path, FLEETING):
            raise Usage(
                f"edged runs from {path}, which does not outlive a reboot; a service cannot use it", hint=MOVE
            )


def require_readable(code: Code) -> None:
    """Raises Usage when another user could not read all of ``code``.

    A folder below a home is shown to the service on its own, so the home itself may stay closed.
    """
    hidden = code.hidden
    for path in _outermost(path for path in code.places if path not in ROOTS and not under(path, SYSTEM)):
        gate = next((top for top in hidden if path.is_relative_to(top)), Path("/"))
        closed = _closed_step(path, gate) or _closed_inside(path)
        if closed:
            raise Usage(
                f"edged runs from {path}, but other users, such as the service's, cannot read {closed}",
                hint=f"sudo chmod a+rX {closed} (-R for all below), or {MOVE}",
            )


def under(path: Path, tops: Iterable[Path]) -> bool:
    """Whether ``path`` is one of ``tops`` or below one."""
    return any(path.is_relative_to(top) for top in tops)


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in sorted(paths):  # a folder sorts before what is in it
        if not under(path, found):
            found.append(path)
    return tuple(found)


def _links(executable: Path) -> Iterator[Path]:
    """``executable`` and every link on the way to the real interpreter."""
    path = executable.absolute()
    for _ in range(MOST_LINKS):
        yield path
        if not path.is_symlink():
            return
        path = Path(os.path.normpath(path.parent / path.readlink()))


def _closed_step(path: Path, gate: Path) -> Path | None:
    """The first folder from ``gate`` down to ``path`` that others cannot enter."""
    for step in (*reversed(path.parents), path):
        if step.is_relative_to(gate) and not step.stat().st_mode & stat.S_IXOTH:
            return step
    return None


def _closed_inside(folder: Path) -> Path | None:
    """The first piece of code in ``folder`` that others cannot read; what else lies there does not count."""
    top = (
        folder if (folder / "pyvenv.cfg").is_file() or folder.name.endswith("-packages") else folder / "edged"
    )
    for place, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        code = [name for name in files if name.endswith(".py") or ".so" in name]
        for path in (Path(place), *(Path(place, name) for name in (*folders, *code))):
            mode = path.lstat().st_mode
            needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
            if not stat.S_ISLNK(mode) and mode & needed != needed:
                return path
    return None
