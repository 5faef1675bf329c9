"""`.ci/setup` names what is missing before the long build, and an interrupted set-up starts clean."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kit.daemon import wait_until

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    "sh", "awk", "cat", "chmod", "cksum", "cp", "dirname", "flock", "grep", "head", "id", "mkdir", "rm",
    "sed", "sleep", "tail", "touch", "tr",
)  # fmt: skip

# Stands for an interpreter: `venv` copies it, pip does what the file `pip` beside the checkout says.
PYTHON = """#!/bin/sh
echo "$*" >>calls
case "$*" in
  *version_info*) exit 0 ;;
  *"import ensurepip"*) [ ! -e no-venv ] ;;
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m pip --version") exit 0 ;;
  "-m pip cache"*) exit 1 ;;
  *--dry-run*) [ -e engine-compiled ] ;;
  "-m pip install"*) echo 'Collecting numpy'; sh ./pip ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Checkout:
    """A folder with `.ci/setup`, and a PATH that holds exactly what it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a check out"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.folder / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "setup", self.folder / ".ci")
        (self.folder / "pyproject.toml").write_text('  "llama-cpp-python>=0.3",\n')
        self.write("pip", "exit 0")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)

    def write(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, extra: str = "dev", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/sh", ".ci/setup", extra], cwd=self.folder, env={"PATH": str(self.bin), **env}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, extra: str = "dev", **env: str) -> tuple[int, str, str]:
        with self.start(extra, **env) as process:
            try:
                said, complained = process.communicate(timeout=30)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # nothing outlives a test
        return process.returncode, said, complained

    def calls(self, words: str) -> int:
        path = self.folder / "calls"
        return sum(words in line for line in path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def checkout(tmp_path):
    made = Checkout(tmp_path)
    made.program("python3", PYTHON)
    made.program("cc", "")
    made.program("c++", "")
    return made


def test_without_python_one_line_names_the_command_that_installs_it(checkout):
    (checkout.bin / "python3").unlink()
    checkout.program("apt-get", "")
    status, said, complained = checkout.run()
    sudo = "" if os.geteuid() == 0 else "sudo "
    assert status == 1
    assert complained == (
        f"Missing: Python 3.11 or newer. Install it: {sudo}apt install python3 python3-venv\n"
    )
    assert said == ""
    assert not (checkout.folder / ".venv").exists()


def test_an_old_python_is_passed_over_for_a_newer_one(checkout):
    checkout.program("python3", "#!/bin/sh\nexit 1\n")
    checkout.program("python3.12", PYTHON)
    assert checkout.run()[0] == 0


def test_an_interpreter_named_by_hand_must_be_new_enough(checkout):
    checkout.program("old", "#!/bin/sh\nexit 1\n")
    status, _, complained = checkout.run(EDGED_PYTHON="old")
    assert status == 1
    assert complained == "Missing: Python 3.11 or newer: EDGED_PYTHON=old is not one\n"


def test_without_the_venv_module_one_line_says_so_and_nothing_is_made(checkout):
    checkout.write("no-venv")
    checkout.program("dnf", "")
    status, _, complained = checkout.run()
    assert status == 1
    assert complained.startswith("Missing: the venv module of python3. Install it: ")
    assert len(complained.splitlines()) == 1
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize("absent", ["cc", "c++"])
def test_without_a_compiler_one_line_says_so_before_anything_is_installed(checkout, absent):
    (checkout.bin / absent).unlink()
    checkout.program("apt-get", "")
    status, _, complained = checkout.run()
    assert status == 1
    assert complained.startswith("Missing: a C/C++ compiler, to build the engine. Install it: ")
    assert complained.endswith("apt install build-essential\n")
    assert checkout.calls("--editable") == 0


def test_a_compiler_is_not_needed_for_an_engine_that_is_compiled(checkout):
    checkout.write("engine-compiled")
    (checkout.bin / "cc").unlink()
    status, said, _ = checkout.run()
    assert status == 0
    assert "10 minutes" not in said


def test_the_long_build_is_announced(checkout):
    status, said, _ = checkout.run()
    assert status == 0
    assert "about 10 minutes" in said


def test_the_second_run_does_nothing_and_says_nothing(checkout):
    assert checkout.run()[0] == 0
    assert checkout.run() == (0, "", "")
    assert checkout.calls("--editable") == 1


def test_what_tests_need_covers_what_the_demo_needs_but_not_the_other_way_round(checkout):
    checkout.run("demo")
    checkout.run("dev")
    assert checkout.calls("--editable .[demo]") == 1
    assert checkout.calls("--editable .[dev]") == 1
    checkout.run("demo")
    assert checkout.calls("--editable") == 2


def test_a_changed_pyproject_is_installed_into_the_same_environment(checkout):
    checkout.run()
    checkout.write("pyproject.toml", '  "llama-cpp-python>=0.4",\n')
    assert checkout.run()[0] == 0
    assert checkout.calls("--editable") == 2
    assert checkout.calls("venv --clear") == 1


def test_a_failed_install_shows_the_error_and_the_next_run_starts_clean(checkout):
    checkout.write("pip", "echo 'ERROR: no space'; exit 1")
    status, _, complained = checkout.run()
    assert status == 1
    assert "ERROR: no space" in complained
    assert ".venv/setup.log" in complained
    checkout.write("pip", "exit 0")
    assert checkout.run()[0] == 0
    assert checkout.calls("venv --clear") == 2


def test_ctrl_c_ends_the_build_and_the_next_run_starts_clean(checkout):
    checkout.write("pip", "touch building; exec sleep 60")
    process = checkout.start()
    wait_until((checkout.folder / "building").exists, "the build to run", 10)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    checkout.write("pip", "exit 0")
    assert checkout.run()[0] == 0
    assert checkout.calls("venv --clear") == 2


def test_a_moved_checkout_gets_a_new_environment(checkout):
    checkout.run()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("else where"))
    assert checkout.run()[0] == 0
    assert checkout.calls("venv --clear") == 2


def test_two_at_once_set_up_once(checkout):
    checkout.write("pip", "touch building; while [ ! -e go-on ]; do sleep 0.05; done")
    first = checkout.start()
    wait_until((checkout.folder / "building").exists, "the build to run", 10)
    second = checkout.start()
    assert "waiting" in second.stdout.readline()
    checkout.write("go-on")
    first.communicate(timeout=20)
    second.communicate(timeout=20)
    assert (first.returncode, second.returncode) == (0, 0)
    assert checkout.calls("--editable") == 1
