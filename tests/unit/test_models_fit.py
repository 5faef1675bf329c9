"""`edgectl models fit` and `models pull --json` tell a program what it needs, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from msgspec import structs

from edgectl.cli import cli
from edgectl.models.store import Store
from edgectl.output.outcome import run
from edgectl.planning.calibration import cpu_identity, engine_version, save_calibration
from edgectl.probe import probe_device
from edged.host.paths import default_paths
from tests.fixtures.file_server import serving
from tests.fixtures.gguf_files import Gguf, basic_pairs, model_bytes, u32_pair
from tests.kit.stored_models import store_fake
from tests.unit.test_calibration import CALIBRATION

FILE = model_bytes()
SHA256 = hashlib.sha256(FILE).hexdigest()


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGED_STATE", str(tmp_path / "state"))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def edgectl(capsys):
    """Run a command line; its exit status and its lines of JSON."""

    def call(*argv):
        status = run(cli, [str(word) for word in argv])
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def configuration(tmp_path, **memory):
    path = tmp_path / "edged.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in memory.items())
    path.write_text(f'[model]\npath = "/old.gguf"\nsystem = "Be brief."\n[memory]\ncache_mib = 5\n{lines}')
    return path


@pytest.mark.parametrize("limits", [{}, {"budget_mib": 100}, {"budget_mib": 100, "cgroup_max_mib": 120}])
def test_a_model_is_planned_inside_the_limits_in_force(edgectl, tmp_path, limits):
    ref = store_fake(default_paths().state, "small")
    status, (done,) = edgectl("models", "fit", "small", "--config", configuration(tmp_path, **limits))
    assert status == 0
    assert done["event"] == "done"
    model = done["settings"]["model"]
    assert (model["name"], model["quant"], model["backend"]) == ("small", "FAKE", "fake")
    assert (model["path"], model["sha256"]) == (str(Store(default_paths().models).path_of(ref)), ref.sha256)
    assert model["system"] == "Be brief."
    assert done["settings"]["plan"]["decode_tps"] > 0


@pytest.mark.parametrize(
    ("limits", "named"),
    [({"budget_mib": 40}, "memory.budget_mib is 40"), ({"cgroup_max_mib": 50}, "cgroup_max_mib is 50")],
)
def test_a_model_that_is_too_large_is_refused_with_both_figures(edgectl, tmp_path, limits, named):
    store_fake(default_paths().state, "small")
    status, (failed,) = edgectl("models", "fit", "small", "--config", configuration(tmp_path, **limits))
    assert status == 3
    assert (failed["event"], failed["code"]) == ("failed", "nothing_fits")
    assert named in failed["message"]
    assert "edgectl install --model small:FAKE" in failed["hint"]


def test_a_model_trained_for_little_context_gets_that_and_what_was_measured_here_counts(
    edgectl, tmp_path, capsys
):
    shape = {"embedding_length": 64, "feed_forward_length": 160, "attention.head_count": 4}
    pairs = [*basic_pairs(), *(u32_pair(f"llama.{key}", value) for key, value in shape.items())]
    (tmp_path / "tiny-Q8_0.gguf").write_bytes(Gguf(pairs=pairs).build())
    assert run(cli, ["models", "import", str(tmp_path / "tiny-Q8_0.gguf")]) == 0
    capsys.readouterr()
    here = cpu_identity(probe_device())
    measured = structs.replace(CALIBRATION, cpu=here, engine=engine_version() or "")
    save_calibration(measured, default_paths().state / "calibration.json")
    status, (done,) = edgectl("models", "fit", "tiny-model", "--config", configuration(tmp_path))
    assert (status, done["settings"]["model"]["context"]) == (0, 256)
    assert done["settings"]["plan"]["speed"] == "measured"


def test_the_first_store_that_has_the_file_counts(edgectl, tmp_path):
    config = configuration(tmp_path)
    ref = store_fake(tmp_path / "one", "small")
    store_fake(tmp_path / "two", "small")
    stores = ("--store", tmp_path / "one/models", "--store", tmp_path / "two/models")
    for folder in ("one", "two"):
        _status, (done,) = edgectl("models", "fit", "small", "--config", config, *stores)
        assert done["settings"]["model"]["path"] == str(Store(tmp_path / folder / "models").path_of(ref))
        shutil.rmtree(tmp_path / folder / "models/blobs")
    for spec in ("small", "nobody"):
        status, (failed,) = edgectl("models", "fit", spec, "--config", config, *stores)
        assert (status, failed["code"]) == (2, "not_found")


def test_what_other_models_there_are_is_told_of_every_store(edgectl, tmp_path):
    for folder in ("one", "two"):
        store_fake(tmp_path / folder, folder)
    stores = ("--store", tmp_path / "one/models", "--store", tmp_path / "two/models")
    _, (failed,) = edgectl("models", "fit", "nobody", "--config", configuration(tmp_path), *stores)
    assert failed["hint"] == "stored: one:FAKE, two:FAKE"


def test_a_download_tells_programs_how_far_it_is(edgectl):
    with serving(FILE) as server:
        words = ("models", "pull", "--json", server.url(), "--sha256", SHA256, "--name", "house")
        status, lines = edgectl(*words)
        assert status == 0
        progress = [line for line in lines if line["event"] == "progress"]
        assert progress[-1]["done_bytes"] == progress[-1]["total_bytes"] == len(FILE)
        done = lines[-1]
        assert (done["event"], done["spec"], done["sha256"]) == ("done", "house:Q8_0", SHA256)
        assert (done["size_bytes"], done["fresh"]) == (len(FILE), True)
        assert edgectl(*words)[1][-1]["fresh"] is False


def test_why_a_download_failed_is_told_with_its_code(edgectl):
    with serving(FILE) as server:
        status, lines = edgectl("models", "pull", "--json", server.url(), "--sha256", "1" * 64)
    assert (status, lines[-1]["event"], lines[-1]["code"]) == (9, "failed", "integrity")
    status, lines = edgectl("models", "pull", "--json", "http://127.0.0.1/m.gguf", "--name", "x")
    assert (status, lines[-1]["code"]) == (2, "usage")
