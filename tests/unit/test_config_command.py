from __future__ import annotations

import json
import tomllib

import pytest

from edgectl.cli import cli
from edgectl.output.outcome import run
from edged.api.config import Config
from edged.host.config import parse


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "edged.toml"
    path.write_text(
        'node = "box"\n[model]\npath = "/nowhere/m.gguf"\ncontext = 8192\n[limits]\nmax_tokens = 300\n'
    )
    return path


def test_a_valid_file_passes_and_files_it_names_that_are_missing_are_mentioned(file, capsys):
    assert run(cli, ["config", "check", str(file)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{file} is valid.\n"
    assert "model.path: there is no file /nowhere/m.gguf" in captured.err


def test_what_systemd_hands_over_at_the_start_is_not_called_missing(file, capsys):
    file.write_text(
        f'{file.read_text()}[mqtt]\npassword_file = "/run/credentials/edged.service/mqtt-password"\n'
    )
    assert run(cli, ["config", "check", str(file)]) == 0
    assert "mqtt" not in capsys.readouterr().err


def test_all_problems_of_an_invalid_file_are_shown_at_once_and_the_exit_status_is_2(file, capsys):
    file.write_text('[model]\ncontxt = 1\n[http]\nport = 99999\n[limits]\nmax_tokens = "many"\n')
    assert run(cli, ["config", "check", str(file)]) == 2
    shown = capsys.readouterr().err
    assert "did you mean model.context?" in shown
    assert "http.port: must be between" in shown
    assert "limits.max_tokens = 'many'" in shown
    assert "model.path: is needed" in shown


def test_a_missing_file_is_said_to_be_missing(tmp_path, capsys):
    assert run(cli, ["config", "check", str(tmp_path / "none.toml")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_what_show_prints_is_a_configuration_with_the_same_meaning(file, capsys):
    assert run(cli, ["config", "show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert parse(tomllib.loads(shown)) == parse(tomllib.loads(file.read_text()))
    differing = [line.split(" = ")[0] for line in shown.splitlines() if "# default:" in line]
    assert differing == ["node", "path", "context", "max_tokens"]


def test_show_as_json_names_the_keys_that_differ(file, capsys):
    assert run(cli, ["config", "show", "--json", str(file)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["differs"] == ["node", "model.path", "model.context", "limits.max_tokens"]
    assert shown["values"]["limits"]["queue"] == Config().limits.queue


def test_templates_are_shown_as_they_are_written(file, capsys):
    file.write_text(file.read_text() + '[templates.door-camera]\nsystem = "Say \\"who\\"."\n')
    assert run(cli, ["config", "show", str(file)]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["templates"] == {"door-camera": {"system": 'Say "who".'}}
    assert run(cli, ["config", "explain", "templates"]) == 0
    assert "named tables" in capsys.readouterr().out


def test_a_key_is_explained_with_type_default_and_rule(capsys):
    assert run(cli, ["config", "explain", "limits.default_max_tokens"]) == 0
    shown = capsys.readouterr().out
    assert "whole number" in shown
    assert "256" in shown
    assert "must be between 1 and limits.max_tokens" in shown


def test_a_table_is_explained_by_its_keys(capsys):
    assert run(cli, ["config", "explain", "memory"]) == 0
    assert "memory.budget_mib" in capsys.readouterr().out


def test_an_unknown_key_gets_the_nearest_one(capsys):
    assert run(cli, ["config", "explain", "budget_mb"]) == 2
    assert "did you mean 'memory.budget_mib'" in capsys.readouterr().err


def test_a_script_is_told_whether_a_file_is_valid(file, capsys):
    file.write_text('[model]\npath = "/nowhere.gguf"\n')
    assert run(cli, ["config", "check", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["valid"], told["file"]) == (True, str(file))
    assert "/nowhere.gguf" in told["notes"][0]
    file.write_text("[modle]\n")
    assert run(cli, ["config", "check", str(file), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is False
    assert "modle" in told["message"]
