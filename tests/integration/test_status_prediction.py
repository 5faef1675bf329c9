"""edgectl status puts what the plan predicted beside what the real daemon measures."""

from __future__ import annotations

import json

import pytest

from edgectl.cli import cli
from edgectl.output.outcome import run
from tests.kit.daemon import running_daemon
from tests.kit.service import fake_model, fake_tree

PLAN = {"decode_tps": 5.61, "first_token_500_s": 20.63, "worker_mib": 293, "speed": "measured"}


@pytest.fixture
def status(tmp_path, monkeypatch, capsys):
    """Asks a daemon whose configuration is taken for this computer's own."""
    monkeypatch.delenv("EDGECTL_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    tree = fake_tree(fake_model(tmp_path))
    with running_daemon(tree | {"plan": PLAN, "memory": {"budget_mib": 355}}, tmp_path) as daemon:
        monkeypatch.setattr("edgectl.client.target.local_config_path", lambda: daemon.config)

        def call(*words: str) -> str:
            assert run(cli, ["status", *words]) == 0
            return capsys.readouterr().out

        call.url = daemon.url
        yield call


def test_predicted_stands_beside_measured(status):
    shown = status()
    assert "predicted 5.6 tok/s" in shown
    assert "after 20.6 s (from a measurement here)" in shown
    assert "predicted 293 MiB with every context full" in shown
    assert "the engine's account: program" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 120
    assert json.loads(status("--json"))["predicted"] == PLAN


def test_a_box_that_was_named_tells_its_own_prediction(status):
    assert "predicted 5.6 tok/s" in status("--url", status.url)
    assert json.loads(status("--url", status.url, "--json"))["predicted"] == PLAN


def test_a_box_without_a_plan_predicts_nothing(tmp_path, capsys):
    with running_daemon(fake_tree(fake_model(tmp_path)), tmp_path) as daemon:
        assert run(cli, ["status", "--url", daemon.url]) == 0
        assert "predicted" not in capsys.readouterr().out
