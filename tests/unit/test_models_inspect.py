"""`edgectl models inspect` shows what a file says, believes none of it, and opens nothing that never ends."""

from __future__ import annotations

import json
import os

import pytest

from edgectl.cli import cli
from edgectl.commands.models_inspect import count, printable
from edgectl.output.outcome import run
from tests.fixtures.file_server import answers, serving
from tests.fixtures.gguf_files import Gguf, basic_pairs, model_bytes, text_pair


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def inspect(capsys):
    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run(cli, ["models", "inspect", *map(str, argv)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(model_bytes())
    return path


def test_a_file_is_described_for_people(inspect, model):
    status, out, _ = inspect(model)

    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert status == 0
    assert rows["name"].strip() == "Tiny Model"
    assert rows["context"].strip() == "256 tokens"
    assert {title: rows[title].strip() for title in ("quantization", "layers", "parameters", "licence")} == {
        "quantization": "Q8_0", "layers": "2", "parameters": "101", "licence": "not said",
    }  # fmt: skip
    assert rows["chat template"].strip() == "yes"


def test_a_file_is_described_for_scripts(inspect, model):
    status, out, _ = inspect(model, "--json")

    said = json.loads(out)
    assert status == 0
    assert said["fetched_bytes"] is None
    assert (said["architecture"], said["parameters"], said["context_tokens"], said["layers"]) == (
        "llama",
        101,
        256,
        2,
    )
    assert (said["vocabulary_tokens"], said["has_chat_template"], said["tensors"]) == (3, True, 2)
    assert said["size_bytes"] == model.stat().st_size


def test_a_stored_model_is_found_by_its_name(inspect, model, capsys):
    assert run(cli, ["models", "import", str(model), "--name", "house-model"]) == 0
    status, out, _ = inspect("house-model")
    assert status == 0
    assert "house-model:Q8_0" in out


def test_a_model_of_the_catalogue_is_asked_for_at_the_hub_and_must_have_its_size(inspect, monkeypatch):
    with serving(model_bytes()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        monkeypatch.setattr("edgectl.planning.catalog.ModelFile.urls", ())  # no mirror: the test stays here
        status, _, err = inspect("qwen3.5-0.8b")
        assert status == 9
        assert f"has {len(model_bytes()):,} bytes, not the" in err

        server.default = answers(404)
        assert inspect("qwen3.5-0.8b")[0] == 75


@pytest.mark.parametrize("word", ["no-such-model", "./no-such-file", "missing.gguf"])
def test_what_does_not_exist_ends_with_2(inspect, word):
    status, _, err = inspect(word)
    assert status == 2
    assert "Traceback" not in err


def test_a_pipe_is_refused_instead_of_waited_for(inspect, tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    status, _, err = inspect(tmp_path / "pipe.gguf")
    assert status == 2
    assert "no regular file" in err


def test_a_hostile_file_ends_with_9(inspect, tmp_path):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(Gguf(pair_count=2**63).build())
    status, out, err = inspect(path)
    assert (status, out) == (9, "")
    assert "metadata keys, more than" in err


def test_names_in_a_file_cannot_move_the_cursor_or_flood_the_screen(inspect, tmp_path):
    path = tmp_path / "m.gguf"
    pairs = [pair for pair in basic_pairs() if b"general.name" not in pair]
    path.write_bytes(
        Gguf(pairs=[*pairs, text_pair("general.name", "\x1b[2J\r\u202eevil" + "x" * 5000)]).build()
    )
    status, out, _ = inspect(path)
    assert status == 0
    assert out.isascii() is False
    assert not {"\x1b", "\r", "\u202e"} & set(out)
    assert max(map(len, out.splitlines())) < 200


@pytest.mark.parametrize(
    ("number", "text"), [(101, "101"), (134_515_008, "134.5 million"), (8_953_803_264, "8.95 billion")]
)
def test_counts_are_rounded_for_reading(number, text):
    assert count(number) == text


def test_text_of_usual_length_is_left_as_it_is():
    assert printable("Qwen3.5 2B – Übung") == "Qwen3.5 2B – Übung"
