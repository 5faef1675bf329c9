"""The model that a job has chosen holds until the configuration changes, and never breaks a start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import structs

from edgectl.cli import cli
from edgectl.output.outcome import run
from edged.api.config import Plan
from edged.host.config import load
from edged.host.paths import SYSTEM
from edged.host.switched import FILE, Switched, keep_switched, read_switched, with_switched


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "edged.toml"
    state = tmp_path / "state"
    state.mkdir()
    text = (
        f'state_dir = "{state}"\n[model]\npath = "{tmp_path}/old.gguf"\nname = "old"\nsystem = "Be brief."\n'
    )
    path.write_text(text)
    return load(path)


@pytest.fixture
def switched(config, tmp_path):
    (tmp_path / "new.gguf").write_text("a model")
    model = structs.replace(config.model, path=str(tmp_path / "new.gguf"), name="new", slots=1)
    return Switched(job="j1", instead_of=config.model, model=model, cache_mib=7, plan=Plan(decode_tps=3.5))


def test_what_was_chosen_is_served_after_a_restart(config, switched, tmp_path):
    keep_switched(tmp_path / "state", switched)
    found = with_switched(config, tmp_path / "state")
    assert (found.model, found.memory.cache_mib, found.plan.decode_tps) == (switched.model, 7, 3.5)
    assert structs.replace(found, model=config.model, memory=config.memory, plan=config.plan) == config
    keep_switched(tmp_path / "state", None)
    keep_switched(tmp_path / "state", None)
    assert with_switched(config, tmp_path / "state") == config
    assert not (tmp_path / "state" / FILE).exists()


def test_another_configured_model_ends_it(config, switched, tmp_path):
    keep_switched(tmp_path / "state", switched)
    edited = structs.replace(config, model=structs.replace(config.model, system="Be long."))
    assert with_switched(edited, tmp_path / "state") == edited


def test_a_file_that_is_gone_and_a_rule_that_is_broken_end_it(config, switched, tmp_path):
    keep_switched(tmp_path / "state", structs.replace(switched, cache_mib=-1))
    assert with_switched(config, tmp_path / "state") == config
    keep_switched(tmp_path / "state", switched)
    (tmp_path / "new.gguf").unlink()
    assert with_switched(config, tmp_path / "state") == config


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job": 1}', "\xff", '{"job": "j", "model": {"path": 3}}'])
def test_a_file_that_is_none_is_left_aside(config, tmp_path, text):
    (tmp_path / "state" / FILE).write_bytes(text.encode("latin-1"))
    assert read_switched(tmp_path / "state") is None
    assert with_switched(config, tmp_path / "state") == config


def test_the_command_line_shows_what_is_in_force(config, switched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("edgectl.commands.config.local_config_path", lambda: tmp_path / "edged.toml")
    keep_switched(tmp_path / "state", switched)
    assert run(cli, ["config", "show"]) == 0
    out = capsys.readouterr().out
    assert "a job has put new in its place" in out
    assert 'name = "new"' in out
    assert run(cli, ["config", "show", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["switched"] == str(tmp_path / "new.gguf")
    assert run(cli, ["config", "show", str(tmp_path / "edged.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["model"]["name"] == "old"


def test_of_the_system_s_file_the_system_s_choice_is_shown_whoever_asks(
    config, switched, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "edged.toml"
    path.write_text(path.read_text().replace(f'state_dir = "{tmp_path}/state"\n', ""))
    system = structs.replace(SYSTEM, config=path, state=tmp_path / "state")
    monkeypatch.setattr("edgectl.commands.in_force.SYSTEM", system)
    monkeypatch.setattr("edgectl.commands.config.local_config_path", lambda: path)
    monkeypatch.setenv("EDGED_STATE", str(tmp_path / "elsewhere"))
    keep_switched(tmp_path / "state", switched)
    assert run(cli, ["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["switched"] == str(tmp_path / "new.gguf")


def test_a_choice_that_may_not_be_read_is_said_to_need_root(config, switched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("edgectl.commands.config.local_config_path", lambda: tmp_path / "edged.toml")
    keep_switched(tmp_path / "state", switched)
    opened = Path.open

    def closed(path, *args, **kwargs):
        if path.name == FILE:  # root, as whom tests may run, may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", closed)
    assert run(cli, ["config", "show", "--json"]) == 0
    said = capsys.readouterr()
    assert "needs root" in said.err
    assert json.loads(said.out)["switched"] is None
