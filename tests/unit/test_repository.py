"""The repository itself: what lies where, what it may name, and what every module and command carries."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import click
import pytest

from edgectl.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "daemon", "docs", "edgectl", "profiles", "pyproject.toml", "systemd", "tests",
}  # fmt: skip
# Places of one computer, hosts of one registry, tools of one author; spelt so that this file passes itself.
FORBIDDEN = re.compile(
    r"(?<![\w.])(/wor[k]/|/tmp/[w]\b|/opt/pyp[i]|/opt/wheel[s]|/roo[t]/\.)|pypi[.]org|python[h]osted"
    r"|\bclaud[e]\b|anthropi[c]|copilo[t]|chatgp[t]",
    re.IGNORECASE,
)
VAGUE = {"utils", "util", "helpers", "common", "manager", "misc"}


def tracked() -> list[str]:
    """Paths under version control; of an unpacked archive, all but what the tools leave behind."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "ls-files", "-z"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        return [path for path in listed.stdout.decode().split("\0") if path and (ROOT / path).exists()]
    left_behind = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    return [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.is_file() and left_behind.isdisjoint(path.relative_to(ROOT).parts)
    ]


PYTHON = [path for path in tracked() if path.endswith(".py")]
MODULES = [path for path in PYTHON if path.startswith(("edgectl/", "daemon/edged/"))]


def test_the_top_level_holds_what_it_should_and_nothing_else():
    assert {path.split("/")[0] for path in tracked()} <= TOP_LEVEL


def test_the_modules_are_found_at_all():
    assert len(MODULES) > 100
    assert "daemon/edged/app.py" in MODULES


def test_no_file_names_a_place_of_one_computer_a_registry_or_a_tool():
    found = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if FORBIDDEN.search(line)
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["see /wor~k/main", "in /tmp/~w/x", "at PyPI~.org", "by Claud~e", "/roo~t/.cache"]
)
def test_what_may_not_be_named_is_recognised(text):
    assert FORBIDDEN.search(text.replace("~", ""))


def test_no_tracked_file_is_large():
    assert [path for path in tracked() if (ROOT / path).stat().st_size > 300_000] == []


@pytest.mark.parametrize("path", MODULES)
def test_a_module_says_its_one_responsibility_in_its_first_line(path):
    source = (ROOT / path).read_text()
    if not source.strip() and path.endswith("__init__.py"):
        return
    said = ast.get_docstring(ast.parse(source))
    assert source.startswith('"""'), "the docstring is the first line"
    assert said
    assert said.splitlines()[0].endswith("."), "the first line is a sentence"


def test_modules_have_names_that_say_something():
    assert [path for path in PYTHON if not VAGUE.isdisjoint(Path(path).with_suffix("").parts)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(name):
    context = click.Context(cli, info_name="edgectl")
    command = cli.get_command(context, name)
    assert command is not None
    text = command.get_help(click.Context(command, info_name=name, parent=context))
    assert re.search(r"^ *Examples?:$", text, re.MULTILINE), text
    assert re.search(rf"^\s+(sudo )?edgectl {name}\b", text, re.MULTILINE), text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_explained(name):
    command = cli.get_command(click.Context(cli), name)
    nodes = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    silent = [
        f"{node.name} {parameter.name}"
        for node in nodes
        for parameter in node.params
        if isinstance(parameter, click.Option) and not parameter.help and not parameter.hidden
    ]
    assert silent == []


@pytest.mark.parametrize("path", [path for path in tracked() if path.startswith(".ci/")])
def test_the_scripts_of_ci_are_executable_and_parse(path):
    script = ROOT / path
    assert script.stat().st_mode & 0o111
    interpreter = script.read_text().splitlines()[0]
    if interpreter.endswith("python3"):
        ast.parse(script.read_text())
    else:
        subprocess.run([interpreter.removeprefix("#!"), "-n", script], check=True)


def test_every_target_of_the_makefile_is_listed_with_what_it_does():
    lines = (ROOT / "Makefile").read_text().splitlines()
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    said = {line.split(":")[0] for line in lines if re.match(r"[a-z-]+:.*## ", line)}
    assert set(phony) - said == {"setup", "setup-demo"}  # what the others need
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^  {target} ", listed, re.MULTILINE) for target in said)
