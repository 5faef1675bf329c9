"""What else runs here: a desktop, databases, other large programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.device import Neighbours, Program
from edged.host.files import read_text
from edged.host.procfs import process_memory

if TYPE_CHECKING:
    from pathlib import Path

LARGE_BYTES = 100 << 20  # below it, a program's growth is lost in the usual reserve
MOST_PROGRAMS = 8
# Names in /proc/PID/comm, which the kernel cuts after 15 characters.
DESKTOPS = {
    "Xorg": "X11", "Xwayland": "Wayland", "gnome-shell": "GNOME", "kwin_wayland": "KDE", "kwin_x11": "KDE",
    "plasmashell": "KDE", "xfce4-session": "Xfce", "lxsession": "LXDE", "labwc": "labwc",
    "wayfire": "Wayfire", "sway": "Sway", "weston": "Weston", "cinnamon": "Cinnamon", "mate-session": "MATE",
}  # fmt: skip
DATABASES = frozenset({
    "postgres", "mysqld", "mariadbd", "mongod", "redis-server", "valkey-server", "influxd", "influxdb3",
    "clickhouse-serv", "prometheus", "victoria-metric", "cassandra", "questdb",
})  # fmt: skip
OWN = "edged"


def probe(root: Path) -> Neighbours:
    """Every process under ``root``/proc that can be read; edged's own are left out."""
    desktops: set[str] = set()
    held: dict[str, int] = {}
    for folder in _processes(root):
        name = (read_text(folder / "comm", limit=64) or "").strip()
        if name in DESKTOPS:
            desktops.add(name)
        memory = process_memory(int(folder.name), root)
        if memory is None or not name:
            continue
        if memory.rss_anon_bytes + memory.swap_bytes >= LARGE_BYTES // 10 and not _is_own(folder):
            held[name] = held.get(name, 0) + memory.rss_anon_bytes + memory.swap_bytes
    large = [
        Program(name=name, kind="database" if name in DATABASES else "other", anon_bytes=size)
        for name, size in held.items()
        if size >= LARGE_BYTES
    ]
    large.sort(key=lambda program: (-program.anon_bytes, program.name))
    return Neighbours(desktop=_desktop(desktops), programs=tuple(large[:MOST_PROGRAMS]))


def _processes(root: Path) -> list[Path]:
    try:
        return [path for path in (root / "proc").iterdir() if path.name.isdecimal()]
    except OSError:
        return []


def _desktop(found: set[str]) -> str:
    """The name of the session; a bare display server only when nothing more telling runs."""
    telling = sorted(DESKTOPS[name] for name in found if name not in {"Xorg", "Xwayland"})
    plain = sorted(DESKTOPS[name] for name in found)
    return next(iter(telling or plain), "")


def _is_own(folder: Path) -> bool:
    """Whether this is the daemon or its worker, whose memory a plan may use again."""
    words = (read_text(folder / "cmdline", limit=1024) or "").split("\0")
    return any(word.rpartition("/")[2] == OWN or word.startswith(f"{OWN}.") for word in words)
