from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edgectl.commands.probe import command
from edgectl.device import SCHEMA
from edgectl.errors import NotFound
from tests.devices.recorded import build


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_people_see_facts_and_below_them_what_to_do(tmp_path):
    result = run("--root", build("pi5-8gb", tmp_path))
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "Board Raspberry Pi 5 Model B Rev 1.0, 8 GB, revision d04170" in text
    assert "CPU Cortex-A76, aarch64, 4 cores at up to 2.4 GHz" in text
    assert "limits not enforceable" in text
    assert "(memory-cgroup-off)" in text
    assert text.index("Notes") < text.index("/boot/firmware/cmdline.txt")


def test_a_board_without_quirks_says_so(tmp_path):
    assert "Nothing here gets in the way" in run("--root", build("n100", tmp_path)).output


def test_names_with_square_brackets_are_shown_as_they_are(tmp_path):
    root = build("n100", tmp_path)
    (root / "sys/class/dmi/id/board_name").write_text("EQ[bold]13[/nope]")
    assert "EQ[bold]13[/nope]" in run("--root", root).output


def test_scripts_get_versioned_json(tmp_path):
    tree = json.loads(run("--root", build("rock5b", tmp_path), "--json").output)
    assert tree["schema"] == SCHEMA
    assert tree["profile"] == "rock5b-16gb"
    assert tree["cpu"]["clusters"][0]["cpus"] == [4, 5, 6, 7]


def test_another_place_for_models_can_be_judged(tmp_path):
    root = build("kvm-vm", tmp_path)
    assert "/run/x on RAM disk" in run("--root", root, "--path", "/run/x/models").output


def test_a_root_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(NotFound, match="is not a folder"):
        run("--root", tmp_path / "nothing")
