"""`edgectl plan`: tables that fit, JSON that scripts can rely on, exit codes."""

from __future__ import annotations

import json

import pytest

from edgectl.__main__ import run


@pytest.fixture
def edgectl(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str):
        status = run(list(words))
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_the_table_shows_one_line_a_model_and_marks_the_choice(edgectl):
    status, out, _ = edgectl("plan", "--device", "pi5-8gb")
    assert status == 0
    rows = [line for line in out.splitlines() if line.startswith("qwen3.5-")]
    assert len(rows) == 6
    assert [row.split()[0] for row in rows if row.rstrip().endswith("chosen")] == ["qwen3.5-2b"]
    assert "more files are not shown" in out
    assert "estimate" in out
    assert "edgectl install --model qwen3.5-2b" in out


def test_the_table_fits_a_narrow_terminal(edgectl):
    _, out, _ = edgectl("plan", "--device", "pi4-4gb")
    rows = [line.rstrip() for line in out.splitlines() if line.startswith(("qwen3.5-", "model "))]
    assert max(len(row) for row in rows) <= 80


def test_all_shows_every_file(edgectl):
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--all")
    assert out.count("qwen3.5-2b ") == 9
    assert "smollm2" in out
    assert "not shown" not in out


def test_json_carries_the_choice_and_every_candidate(edgectl):
    status, out, _ = edgectl("plan", "--device", "n100-16gb", "--context", "8192", "--json")
    tree = json.loads(out)
    assert status == 0
    assert tree["choice"]["model"] == "qwen3.5-4b"
    assert tree["choice"]["context_tokens"] == 8192
    assert len(tree["choice"]["file"]["sha256"]) == 64
    assert {"fits", "misses", "needed_bytes"} <= tree["candidates"][0].keys()


def test_when_nothing_fits_the_table_is_shown_and_the_exit_code_is_3(edgectl):
    status, out, err = edgectl("plan", "--device", "pi4-2gb", "--min-tps", "90")
    assert status == 3
    assert "too slow" in out
    assert "--min-tps" in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--device", "pi5"], "pi5-8gb"),
        (["--model", "qwen3.5-2bb"], "qwen3.5-2b"),
        (["--context", "7"], "512"),
        (["--quant", "Q1"], "Q4_K_M"),
    ],
)
def test_bad_input_is_one_clear_error_with_exit_code_2(edgectl, words, hint):
    status, out, err = edgectl("plan", *words)
    assert status == 2
    assert out == ""
    assert hint in err
    assert "Traceback" not in err


def test_this_computer_can_be_planned_for(edgectl):
    status, out, _ = edgectl("plan", "--json", "--min-tps", "0.001", "--max-ttft", "100000")
    assert status in (0, 3)
    assert json.loads(out)["device"]["threads"] >= 1


def test_the_next_command_carries_the_wishes_that_matter(edgectl):
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--context", "2048", "--concurrency", "1")
    assert "--context 2048 --concurrency 1" in out
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--model", "smollm2-135m-instruct")
    assert "Next: edgectl demo" in out
