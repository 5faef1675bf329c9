"""A plan with a calibration: measured figures, threads that were tried, and where measured time goes."""

from __future__ import annotations

import io
import json

import pytest
from msgspec.structs import replace
from rich.console import Console

from edgectl.cli import cli
from edgectl.output.outcome import run
from edgectl.output.plan import show_plan
from edgectl.planning.calibration import Calibration, cpu_identity
from edgectl.planning.catalog import find_file, load_catalog
from edgectl.planning.explain import explain_candidate
from edgectl.planning.plan import Wishes, best_candidate, plan, require_choice
from edgectl.planning.speed import device_speed
from edgectl.planning.step_costs import StepCosts
from edgectl.probe import find_profile, planned_device

CATALOG = load_catalog()
DEVICE, PROFILE = planned_device("pi5-8gb"), find_profile("pi5-8gb")


def costs(tokens: int, times: float) -> StepCosts:
    return StepCosts(
        tokens=tokens, fixed_s=0.004, operation_s=0.00001, row_s=0.0, state_s=times * 1e-10,
        attention_s=times * 1e-9, narrow_attention_s=0.0,
        weight_s={"Q4_K": times * 1e-10, "Q6_K": times * 1.2e-10, "Q8_0": times * 1e-10},
    )  # fmt: skip


CALIBRATION = Calibration(
    schema=1,
    engine="llama-cpp-python 0.3.36",
    cpu=cpu_identity(DEVICE),
    threads=3,
    repack=True,
    steps=(costs(1, 1.0), costs(4, 2.0), costs(128, 20.0)),
    spread=0.03,
    load_average=0.1,
    took_s=60.0,
    measured_at="2026-11-22T09:00:00+00:00",
)
SPEED = device_speed(DEVICE, PROFILE, CALIBRATION)


def test_measured_figures_carry_no_sign_of_an_estimate_and_say_where_they_are_from():
    result = plan(DEVICE, PROFILE, CATALOG, speed=SPEED)
    text = io.StringIO()
    out = Console(file=text, width=120, highlight=False, color_system=None)
    show_plan(out, result, everything=False, next_command="")
    row = next(line for line in text.getvalue().splitlines() if line.rstrip().endswith("chosen"))
    assert row.count("~") == 1  # the memory, which is computed
    assert "Speed: measured by " in text.getvalue()
    assert f"(measured by {SPEED.source})" in " ".join(text.getvalue().split())


def test_the_threads_are_those_that_were_fastest_when_tried():
    assert require_choice(plan(DEVICE, PROFILE, CATALOG, speed=SPEED)).threads == 3
    assert require_choice(plan(DEVICE, PROFILE, CATALOG)).threads == 4


@pytest.mark.parametrize("spec", ["qwen3.5-2b:Q4_K_M", "qwen3.5-35b-a3b:Q8_0", "smollm2-135m-instruct"])
def test_the_measured_parts_of_a_step_add_up_to_it(spec):
    candidate = best_candidate(plan(DEVICE, PROFILE, CATALOG, Wishes(model=spec), speed=SPEED))
    entry = CATALOG.model(candidate.model)
    told = explain_candidate(candidate, entry, find_file(entry, candidate.quant), SPEED)
    assert told.speed_kind == "measured"
    assert sum(term.amount for term in told.decode) == pytest.approx(told.decode_ms)
    assert sum(term.amount for term in told.first_token) == pytest.approx(told.first_token_ms)
    assert {"fixed part of a step", "output head and last feed-forward"} <= {
        term.name for term in told.decode
    }


def test_a_damaged_calibration_costs_a_note_and_not_the_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDGED_STATE", str(tmp_path))
    (tmp_path / "calibration.json").write_text("{")
    assert run(cli, ["plan", "--json", "--min-tps", "0.001", "--max-ttft", "1e6"]) in (0, 3)
    said = capsys.readouterr()
    assert "damaged" in said.err
    assert json.loads(said.out)["candidates"][0]["speed"]["kind"] == "estimated"


def test_measuring_here_and_planning_for_another_board_is_refused(capsys):
    assert run(cli, ["plan", "--measure", "--device", "pi5-8gb"]) == 2
    assert "--device" in capsys.readouterr().err


def test_no_memory_is_set_aside_for_repacking_that_the_engine_does_not_survive():
    with_it = require_choice(plan(DEVICE, PROFILE, CATALOG, speed=SPEED))
    dies = device_speed(DEVICE, PROFILE, replace(CALIBRATION, repack=False))
    without = require_choice(plan(DEVICE, PROFILE, CATALOG, speed=dies))
    assert (with_it.repack, without.repack) == ("auto", "off")
    assert with_it.memory.repacked_bytes > 0 == without.memory.repacked_bytes
