"""A whole run of `edgectl install` and `uninstall`: a scripted service manager, a client that answers."""

from __future__ import annotations

import io

import pytest

from edgectl.cli import cli
from edgectl.install.manifest import read_manifest
from edgectl.install.places import places
from edgectl.output.outcome import run
from tests.kit.installation import AnsweringClient, tree
from tests.kit.service_manager import FakeManager

DEMO = "smollm2-135m-instruct"


class Home:
    """A user's home, and `edgectl` in it."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = folder, capsys
        self.places = places(user=True)
        self.manager = FakeManager(self.places.unit)
        self.manager.config = self.places.config
        self.model = folder / "m.fake"
        self.model.write_text("{}")

    def edgectl(self, *words):
        status = run(cli, list(words))
        said = self._capsys.readouterr()
        return status, said.out, said.err

    def install(self, *words):
        return self.edgectl("install", "--user", "--yes", "--model-file", str(self.model), *words)


@pytest.fixture
def home(tmp_path, monkeypatch, capsys):
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "SUDO_USER", "EDGED_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    home = Home(tmp_path, capsys)
    (tmp_path / ".config/systemd/user").mkdir(parents=True)
    monkeypatch.setattr("edgectl.install.model_file.FLEETING", ())
    monkeypatch.setattr("edgectl.install.code.FLEETING", ())
    monkeypatch.setattr("edgectl.commands.installing.run", home.manager)
    monkeypatch.setattr("edgectl.commands.installing.EdgeClient", lambda *_a, **_k: AnsweringClient())
    return home


class Answering(io.StringIO):
    """A person at a terminal who has typed this."""

    def isatty(self):
        return True


class Closed(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_dry_run_of_what_is_installed_has_no_steps(home):
    status, out, errors = home.install()
    assert (status, errors) == (0, "")
    assert "Log: edgectl logs --user" in out
    before = tree(home.folder)
    status, out, _ = home.install("--dry-run")
    assert (status, tree(home.folder)) == (0, before)
    assert out == "edged is installed like this already\n\nDry run: nothing was changed.\n"


def test_who_says_no_is_told_that_nothing_was_changed(home, monkeypatch):
    before = tree(home.folder)
    monkeypatch.setattr("sys.stdin", Answering("n\n"))
    status, out, errors = home.edgectl("install", "--user", "--model-file", str(home.model))
    assert (status, tree(home.folder)) == (2, before)
    assert out.endswith("nothing was changed\n")
    assert errors == ""


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_an_output_that_is_closed_before_anything_is_done_is_a_failure(home, monkeypatch, verb):
    if verb == "uninstall":
        home.install()
    before = tree(home.folder)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Closed())
        status, _, errors = home.install() if verb == "install" else home.edgectl(verb, "--user", "--yes")
    assert (status, tree(home.folder)) == (7, before)
    assert "the output was closed, so nothing was changed" in errors


def test_options_that_break_a_rule_are_told_before_anything_is_fetched(home):
    before = tree(home.folder)
    status, out, errors = home.edgectl("install", "--user", "--yes", "--model", DEMO, "--node", "a b")
    assert (status, out, tree(home.folder)) == (2, "", before)
    assert "node: 1 to 48 characters" in errors
    assert "nothing was changed" in errors
    assert "shows this list again" not in errors


def test_options_are_judged_together_with_those_of_before(home):
    secret = home.folder / "pw"
    secret.write_text("canary")
    assert home.install("--mqtt-username", "box", "--mqtt-password-file", str(secret))[0] == 0
    assert home.install("--mqtt-username", "hall")[0] == 0
    assert read_manifest(home.places.record).options.mqtt_username == "hall"
    status, _, errors = home.edgectl("install", "--user", "--yes", "--quant", "Q4_0")
    assert status == 2
    assert f"the model is the file {home.model}" in errors


def test_a_service_that_is_still_starting_is_left_alone(home):
    home.install()
    home.manager.active, home.manager.activating = False, True
    calls = len(home.manager.calls)
    status, _, errors = home.install()
    assert status == 6
    assert "is still starting; nothing was changed" in errors
    assert "edgectl models verify" in errors
    assert not {"stop", "start"} & {call[2] for call in home.manager.calls[calls:]}


def test_a_service_that_runs_on_as_before_is_to_be_restarted(home):
    status, out, _ = home.install("--no-start")
    assert (status, "`systemctl --user start edged`" in out) == (0, True)
    home.manager.active = True
    status, out, _ = home.install("--no-start", "--http-port", "8700")
    assert (status, "`systemctl --user restart edged`" in out) == (0, True)


def test_a_removal_says_what_it_leaves(home):
    home.install()
    _, out, _ = home.edgectl("uninstall", "--user", "--purge", "--dry-run")
    assert f"keep {home.model}\n" in out
    assert "this very program" in out
    assert home.edgectl("uninstall", "--user", "--purge", "--yes")[0] == 0
    assert home.model.is_file()


def test_memory_can_be_left_to_everything_else(home):
    status, out, _ = home.install("--reserve", "100000000")
    assert (status, out) == (3, "")
    assert home.install("--reserve", "64")[0] == 0
    assert read_manifest(home.places.record).options.reserve_mib == 64
