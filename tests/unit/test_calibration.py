"""The kept calibration: used while it holds, ignored with a word when it does not, never a crash."""

from __future__ import annotations

import json
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgectl.errors import StorageFailed
from edgectl.planning.calibration import (
    Calibration,
    calibration_here,
    cpu_identity,
    load_calibration,
    save_calibration,
)
from edgectl.planning.catalog import load_catalog
from edgectl.planning.speed import device_speed, estimate_speed
from edgectl.planning.step_costs import StepCosts
from edgectl.planning.work import work_of_file
from edgectl.probe import find_profile, planned_device
from edged.host.paths import SYSTEM

DEVICE = planned_device("pi5-8gb")
ENGINE = "llama-cpp-python 0.3.36"


def costs(tokens: int, times: float) -> StepCosts:
    return StepCosts(
        tokens=tokens, fixed_s=0.001, operation_s=0.00001, row_s=0.0, state_s=times * 1e-10,
        attention_s=times * 1e-9, narrow_attention_s=0.0,
        weight_s={"Q4_K": times * 1e-10, "Q6_K": times * 1.2e-10},
    )  # fmt: skip


CALIBRATION = Calibration(
    schema=1,
    engine=ENGINE,
    cpu=cpu_identity(DEVICE),
    threads=4,
    repack=True,
    steps=(costs(1, 1.0), costs(4, 2.0), costs(128, 20.0)),
    spread=0.03,
    load_average=0.1,
    took_s=60.0,
    measured_at="2026-11-22T09:00:00+00:00",
    tried_threads_tps={4: 10.0},
)


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "state" / "calibration.json"
    save_calibration(CALIBRATION, path)
    assert load_calibration(path, DEVICE, ENGINE) == (CALIBRATION, "")
    assert [one.name for one in path.parent.iterdir()] == ["calibration.json"]


def test_without_one_there_is_nothing_to_say(tmp_path):
    assert load_calibration(tmp_path / "none.json", DEVICE, ENGINE) == (None, "")


@pytest.mark.parametrize(
    ("device", "engine", "word"),
    [
        (planned_device("pi4-4gb"), ENGINE, "another CPU"),
        (replace(DEVICE, cpu=replace(DEVICE.cpu, usable_cpus=2.0)), ENGINE, "another CPU"),
        (DEVICE, "llama-cpp-python 0.4.0", "0.3.36"),
        (DEVICE, None, "0.3.36"),
    ],
)
def test_another_cpu_or_engine_makes_it_stale(tmp_path, device, engine, word):
    path = tmp_path / "calibration.json"
    save_calibration(CALIBRATION, path)
    found, note = load_calibration(path, device, engine)
    assert found is None
    assert word in note
    assert "edgectl calibrate" in note


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        msgspec.json.encode(replace(CALIBRATION, steps=())),
        msgspec.json.encode(replace(CALIBRATION, steps=CALIBRATION.steps[::-1])),
        msgspec.json.encode(replace(CALIBRATION, steps=CALIBRATION.steps[1:])),
        msgspec.json.encode(replace(CALIBRATION, threads=0)),
        msgspec.json.encode(replace(CALIBRATION, steps=(costs(1, -1.0), costs(128, 1.0)))),
        msgspec.json.encode({**msgspec.to_builtins(CALIBRATION), "schema": 2}),
        msgspec.json.encode({**msgspec.to_builtins(CALIBRATION), "more": 1}),
    ],
)
def test_a_damaged_one_is_ignored_with_a_word(tmp_path, data):
    path = tmp_path / "calibration.json"
    path.write_bytes(data)
    found, note = load_calibration(path, DEVICE, ENGINE)
    assert found is None
    assert "ignored" in note
    assert path.read_bytes() == data


@settings(deadline=None)
@given(st.data())
def test_no_change_of_a_byte_makes_it_crash(tmp_path_factory, data):
    text = bytearray(msgspec.json.encode(CALIBRATION))
    index = data.draw(st.integers(0, len(text) - 1))
    text[index] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("one") / "calibration.json"
    path.write_bytes(text)
    found, note = load_calibration(path, DEVICE, ENGINE)
    assert (found is None) == bool(note)
    if found is not None:
        entry, file = load_catalog().find("qwen3.5-2b:Q4_K_M")
        assert estimate_speed(entry, file, device_speed(DEVICE, None, found)).decode_tps > 0


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "state").write_text("a file is in the way")
    with pytest.raises(StorageFailed, match="calibration"):
        save_calibration(CALIBRATION, tmp_path / "state" / "calibration.json")


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Root's state folder and the home of who called sudo, both without a calibration yet."""
    monkeypatch.delenv("EDGED_STATE", raising=False)
    monkeypatch.setenv("SUDO_USER", "somebody")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    system = replace(SYSTEM, state=tmp_path / "system")
    monkeypatch.setattr("edged.host.paths.SYSTEM", system)
    monkeypatch.setattr("edgectl.planning.calibration.SYSTEM", system)
    monkeypatch.setattr("pwd.getpwnam", lambda _name: SimpleNamespace(pw_dir=str(tmp_path / "home")))
    monkeypatch.setattr("edgectl.planning.calibration.engine_version", lambda: ENGINE)
    return system.state, tmp_path / "home/.local/share/edged"


def test_root_uses_what_the_caller_of_sudo_measured_unless_root_measured_too(homes):
    system, own = homes
    assert calibration_here(DEVICE) == (None, "")
    save_calibration(CALIBRATION, own / "calibration.json")
    assert calibration_here(DEVICE) == (CALIBRATION, "")
    newer = replace(CALIBRATION, threads=3)
    save_calibration(newer, system / "calibration.json")
    assert calibration_here(DEVICE) == (newer, "")
    save_calibration(replace(newer, cpu="another"), system / "calibration.json")
    assert calibration_here(DEVICE) == (CALIBRATION, "")


def test_of_several_that_do_not_hold_the_nearest_is_told(homes):
    for folder, cpu in zip(homes, ("", "x"), strict=True):
        save_calibration(replace(CALIBRATION, cpu=cpu), folder / "calibration.json")
    calibration, problem = calibration_here(DEVICE)
    assert calibration is None
    assert "another CPU" in problem


def test_who_is_not_root_or_names_a_place_has_that_place_alone(homes, monkeypatch, tmp_path):
    save_calibration(CALIBRATION, homes[1] / "calibration.json")
    monkeypatch.setenv("EDGED_STATE", str(tmp_path / "disk"))
    assert calibration_here(DEVICE) == (None, "")


def test_measured_figures_take_the_place_of_the_profiles():
    entry, file = load_catalog().find("qwen3.5-2b:Q4_K_M")
    profile = find_profile("pi5-8gb")
    speed = device_speed(DEVICE, profile, CALIBRATION)
    estimate = estimate_speed(entry, file, speed)
    assert estimate.kind == "measured"
    assert "calibration of this computer, 2026-11-22" in estimate.source
    work = work_of_file(entry, file)
    assert estimate.decode_tps == pytest.approx(1 / CALIBRATION.decode_step_s(work, depth_tokens=500))
    assert estimate.ttft_500_s == pytest.approx(CALIBRATION.first_token_s(work, 500))
    assert estimate.ttft_s(4000) == pytest.approx(CALIBRATION.first_token_s(work, 4000), rel=0.05)
    without = estimate_speed(entry, file, device_speed(DEVICE, profile))
    assert without.kind == "estimated"
    assert "reference figures" in without.source


def test_more_sequences_cost_more_a_step_and_less_a_token():
    work = work_of_file(*load_catalog().find("qwen3.5-2b:Q4_K_M"))
    steps = [CALIBRATION.decode_step_s(work, batch=batch) for batch in (1, 2, 4, 8)]
    assert steps == sorted(steps)
    each = [step / batch for step, batch in zip(steps, (1, 2, 4, 8), strict=True)]
    assert each == sorted(each, reverse=True)
    assert CALIBRATION.decode_step_s(work, depth_tokens=4096) > steps[0]


def test_the_file_is_for_scripts_too(tmp_path):
    path = tmp_path / "calibration.json"
    save_calibration(CALIBRATION, path)
    tree = json.loads(path.read_text())
    assert tree["schema"] == 1
    assert tree["steps"][0]["weight_s"]["Q4_K"] == 1e-10
