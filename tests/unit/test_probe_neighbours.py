"""What else runs on a computer: desktops, databases and large programs, from a recorded /proc."""

from __future__ import annotations

import itertools

import pytest

from edgectl.device import Program
from edgectl.probe.neighbours import MOST_PROGRAMS, probe

MIB = 1 << 20


@pytest.fixture
def process(tmp_path):
    """Adds a process to the /proc below ``tmp_path``."""
    numbers = itertools.count(100)

    def add(name: str, anon_mib: int, *, swap_mib: int = 0, words: tuple[str, ...] = ()) -> None:
        folder = tmp_path / "proc" / str(next(numbers))
        folder.mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "cmdline").write_text("\0".join((*words, "")))
        (folder / "status").write_text(
            f"Name:\t{name}\nRssAnon:\t{anon_mib * 1024} kB\nVmSwap:\t{swap_mib * 1024} kB\n"
        )

    return add


def test_the_processes_of_a_program_count_together_and_the_largest_comes_first(process, tmp_path):
    for _ in range(4):
        process("postgres", 60)
    process("java", 700, swap_mib=100)
    process("bash", 3)
    assert probe(tmp_path).programs == (
        Program(name="java", kind="other", anon_bytes=800 * MIB),
        Program(name="postgres", kind="database", anon_bytes=240 * MIB),
    )


@pytest.mark.parametrize(
    ("names", "desktop"),
    [
        (("Xorg",), "X11"),
        (("Xwayland", "gnome-shell"), "GNOME"),
        (("labwc", "wf-panel-pi"), "labwc"),
        (("sshd", "systemd"), ""),
    ],
)
def test_a_desktop_is_known_by_its_session(process, tmp_path, names, desktop):
    for name in names:
        process(name, 40)
    assert probe(tmp_path).desktop == desktop


def test_edged_and_its_worker_are_not_neighbours_of_themselves(process, tmp_path):
    process("edged", 50, words=("/opt/edged/bin/edged", "--config", "x"))
    process("python3", 900, words=("/opt/edged/bin/python3", "-m", "edged.worker"))
    process("python3", 200, words=("/usr/bin/python3", "-m", "http.server"))
    assert probe(tmp_path).programs == (Program(name="python3", kind="other", anon_bytes=200 * MIB),)


def test_a_process_that_ends_meanwhile_or_hides_is_left_out(process, tmp_path):
    process("mysqld", 300)
    (tmp_path / "proc/4242").mkdir()
    (tmp_path / "proc/self").mkdir()
    assert [one.name for one in probe(tmp_path).programs] == ["mysqld"]


def test_a_computer_with_many_programs_names_the_largest(process, tmp_path):
    for number in range(20):
        process(f"p{number}", 101 + number)
    named = probe(tmp_path).programs
    assert len(named) == MOST_PROGRAMS
    assert named[0].name == "p19"


def test_without_proc_nothing_runs(tmp_path):
    assert probe(tmp_path).programs == ()
