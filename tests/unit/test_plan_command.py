"""`edgectl plan`: tables that fit, JSON that scripts can rely on, exit codes."""

from __future__ import annotations

import io
import json
import os

import msgspec
import pytest
from rich.console import Console

from edgectl.cli import cli
from edgectl.models.refs import Ref
from edgectl.models.store import Store
from edgectl.output.outcome import run
from edgectl.output.plan import show_plan
from edgectl.planning.catalog import load_catalog
from tests.kit.golden_plans import planned


@pytest.fixture
def edgectl(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str):
        status = run(cli, list(words))
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_the_table_shows_one_line_a_model_and_marks_the_choice(edgectl):
    status, out, _ = edgectl("plan", "--device", "pi5-8gb")
    assert status == 0
    rows = [line for line in out.splitlines() if line.startswith("qwen3.5-") and " ~" in line]
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


@pytest.mark.parametrize("words", [["--model", "qwen3.5-4b"], ["--quant", "Q4_K_M"], ["--all"]])
def test_what_does_not_go_with_explain_is_refused(edgectl, words):
    status, out, err = edgectl("plan", "--explain", "qwen3.5-2b:Q4_K_M", *words)
    assert (status, out) == (2, "")
    assert "--explain names the one file" in err


@pytest.mark.parametrize("columns", [60, 69, 80, 100])
def test_the_next_command_is_one_line_and_every_verdict_is_whole(columns):
    text = io.StringIO()
    out = Console(file=text, width=columns, highlight=False, color_system=None)
    command = (
        "on the board: sudo edgectl install --model qwen3.5-2b:UD-Q4_K_XL --context 4096 --concurrency 2"
    )
    show_plan(out, planned("pi5-8gb"), everything=False, next_command=command)
    assert f"\nNext: {command}\n" in text.getvalue()
    if columns < 100:
        rows = text.getvalue().split("\n\n")[1].splitlines()
        assert len(rows) == 7  # none goes on in another line
        assert {row.split()[-1] for row in rows[1:]} <= {
            "fits", "chosen", "slow", "large", "late", "hash",
        }  # fmt: skip


def test_beside_a_running_service_it_plans_with_the_memory_that_install_would_have(
    edgectl, monkeypatch, tmp_path
):
    systemctl = tmp_path / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text("#!/bin/sh\necho ControlGroup=/edged.service\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    group = tmp_path / "groups/edged.service"
    group.mkdir(parents=True)
    held_bytes = 1 << 40  # more than anything here has, so that nothing else explains it
    (group / "memory.current").write_text(f"{held_bytes}\n")
    (group / "memory.stat").write_text(f"anon {held_bytes}\nfile 0\n")
    monkeypatch.setattr("edgectl.install.systemd.BOOTED", tmp_path)
    monkeypatch.setattr("edgectl.install.prepare.CGROUPS", tmp_path / "groups")
    _, out, _ = edgectl("plan", "--json")
    assert json.loads(out)["available_bytes"] > held_bytes


def test_the_next_command_leaves_as_much_to_everything_else_as_the_plan(edgectl):
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--reserve", "512")
    assert out.rstrip().splitlines()[-1].endswith(" --reserve 512")


def test_the_next_command_carries_the_wishes_that_matter(edgectl):
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--context", "2048", "--concurrency", "1")
    assert "--context 2048 --concurrency 1" in out
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--model", "smollm2-135m-instruct")
    assert "Next: edgectl demo" in out


def test_every_row_that_is_out_says_what_would_bring_it_in(edgectl):
    _, out, _ = edgectl("plan", "--device", "pi5-8gb")
    ways = out.split("What would make the others fit")[1]
    assert "qwen3.5-9b:" in ways
    assert "--min-tps" in ways
    assert "take a computer with" in ways


@pytest.mark.parametrize("columns", ["80", "120"])
def test_explain_draws_bars_that_fit_the_terminal_and_add_up(edgectl, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    status, out, _ = edgectl("plan", "--device", "pi5-8gb", "--explain", "qwen3.5-2b:Q4_K_M")
    assert status == 0
    assert max(len(line) for line in out.splitlines() if "█" in line) <= int(columns)
    assert all(words in out for words in ("KV cache", "weights: feed-forward", "One token", "First token"))
    _, out, _ = edgectl("plan", "--device", "pi5-8gb", "--explain", "qwen3.5-2b:Q4_K_M", "--json")
    tree = json.loads(out)
    for terms, total in (
        ("memory", "memory_bytes"),
        ("decode", "decode_ms"),
        ("first_token", "first_token_ms"),
    ):
        assert sum(term["amount"] for term in tree[terms]) == pytest.approx(tree[total], rel=1e-6)
        assert all(term["amount"] >= 0 for term in tree[terms])


def test_explain_says_of_a_model_that_does_not_fit_why_and_what_to_do(edgectl):
    status, out, _ = edgectl("plan", "--device", "pi5-4gb", "--explain", "qwen3.5-9b:Q4_K_M")
    assert status == 0
    assert "It does not fit" in out
    assert "take a computer with" in out


def test_every_catalogued_file_can_be_explained(edgectl):
    catalog = load_catalog()
    for model in catalog.models:
        for file in model.files:
            status, out, _ = edgectl(
                "plan", "--device", "ryzen-7840hs-64gb", "--explain", f"{model.id}:{file.quant}", "--json"
            )
            assert status == 0
            assert len(json.loads(out)["memory"]) >= 6


def test_a_stored_file_is_said_to_be_stored_and_needs_no_disk(edgectl, monkeypatch, tmp_path):
    _, file = load_catalog().find("qwen3.5-0.8b:Q4_K_M")
    store = Store(tmp_path)
    blob = tmp_path / "blobs" / f"sha256-{file.sha256}"
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as made:
        made.truncate(file.bytes)
    ref = Ref(
        model="qwen3.5-0.8b", quant="Q4_K_M", filename=file.filename, sha256=file.sha256,
        size_bytes=file.bytes, source="test", added_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    path = tmp_path / "refs" / "qwen3.5-0.8b" / "Q4_K_M.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(ref))
    monkeypatch.setattr("edgectl.commands.local_models.local_store", lambda: store)
    _, out, _ = edgectl("plan", "--model", "qwen3.5-0.8b", "--json")
    stored = [one["quant"] for one in json.loads(out)["candidates"] if one["stored"]]
    assert stored == ["Q4_K_M"]
    _, out, _ = edgectl("plan", "--model", "qwen3.5-0.8b", "--all")
    assert "stored" in next(line for line in out.splitlines() if " Q4_K_M " in line)
