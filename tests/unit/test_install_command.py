"""`edgectl install` and `uninstall` as a person meets them, and what is decided before anything changes."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from msgspec import structs

from edgectl.cli import cli
from edgectl.commands.install import PATHS, _options
from edgectl.errors import NotFound, Usage
from edgectl.install import prepare
from edgectl.install.config_text import config_text
from edgectl.install.manifest import Options
from edgectl.install.model_file import entry_of, require_usable
from edgectl.models.replica_plan import plan_replica
from edgectl.output.outcome import run
from edgectl.planning.catalog import Geometry, load_catalog
from edged.api.config import Config
from edged.api.errors import ModelUnusable
from edged.host.config import parse
from tests.fixtures.gguf_files import Gguf, basic_pairs, u32_pair
from tests.kit.installation import tree
from tests.unit.test_planning_memory import GEMMA3_270M

DEMO = "smollm2-135m-instruct"


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "SUDO_USER", "EDGED_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def edgectl(capsys, home):
    def call(*words: str):
        status = run(cli, list(words))
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def as_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["/opt/edged/bin/edgectl", "install", "--model", DEMO])


# --- who may do it


@pytest.mark.usefixtures("as_user")
def test_without_root_the_exact_line_to_type_is_told(edgectl):
    status, _, said = edgectl("install", "--model", DEMO)
    assert status == 10
    assert f"sudo /opt/edged/bin/edgectl install --model {DEMO}\n" in said
    assert f"/opt/edged/bin/edgectl install --model {DEMO} --user\n" in said


def test_sudo_with_user_is_refused(edgectl, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "me")
    status, _, said = edgectl("install", "--user")
    assert status == 2
    assert "run it without sudo" in said


@pytest.mark.usefixtures("as_user")
def test_removing_needs_root_too(edgectl):
    assert edgectl("uninstall")[0] == 10


# --- the dry run


@pytest.mark.usefixtures("as_user")
def test_a_dry_run_shows_every_file_and_step_and_changes_nothing(edgectl, home):
    before = tree(home)
    status, out, _ = edgectl("install", "--user", "--dry-run", "--model", DEMO, "--mqtt-host", "broker.lan")
    assert status == 0
    assert tree(home) == before
    text = out.split(f"--- {home}/.config/edged/edged.toml\n")[1].split("--- ")[0]
    assert parse(tomllib.loads(text)).mqtt.host == "broker.lan"
    assert f"--- {home}/.config/systemd/user/edged.service\n" in out
    for step in ("fetch ", "write ", "start edged at every boot", "ask it something", "Dry run"):
        assert step in out


@pytest.mark.usefixtures("as_user")
def test_a_configuration_that_will_be_replaced_is_said_with_what_is_wrong(edgectl, home):
    config = home / ".config/edged/edged.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[http]\nhost = "0.0.0.0"\napi_key_file = "/etc/edged/key"\n')
    status, out, _ = edgectl("install", "--user", "--dry-run", "--model", DEMO)
    assert status == 0
    assert f"{config} is not valid and is replaced; it is kept as edged.toml.bak\n" in out
    assert "- http.api_key_file: keys are kept as hashes now" in out
    assert f"replace {config}\n" in out


@pytest.mark.usefixtures("as_user")
def test_a_dry_run_of_the_system_needs_no_root(edgectl):
    status, out, _ = edgectl("install", "--dry-run", "--model", DEMO)
    assert status == 0
    assert "DynamicUser=yes" in out


@pytest.mark.usefixtures("as_user")
def test_a_dry_run_of_the_removal_changes_nothing(edgectl, home):
    (home / ".config/edged").mkdir(parents=True)
    (home / ".config/edged/edged.toml").write_text("")
    before = tree(home)
    status, out, _ = edgectl("uninstall", "--user", "--purge", "--dry-run")
    assert status == 0
    assert f"remove {home}/.config/edged/edged.toml" in out
    assert tree(home) == before


# --- what cannot be


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mqtt-username", "box"], "belong together"),
        (["--mqtt-username", "box", "--mqtt-password-file", "/nowhere/pw"], "there is no file /nowhere/pw"),
        (["--model-file", "/nowhere/m.gguf"], "there is no file /nowhere/m.gguf"),
        (["--model-file", "/nowhere/m.gguf", "--model", DEMO], "do not go with it"),
        (["--model", "qwen3.5-2c"], "no model 'qwen3.5-2c'"),
        (["--node", "kitchen table"], "node: 1 to 48 characters"),
    ],
)
def test_options_that_cannot_be_are_told_before_anything_changes(edgectl, home, words, said):
    before = tree(home)
    model = [] if any(word.startswith("--model") for word in words) else ["--model", DEMO]
    status, _, errors = edgectl("install", "--dry-run", *words, *model)
    assert status == 2
    assert said in errors
    assert tree(home) == before


def test_what_fits_nowhere_keeps_the_planner_s_exit_code(edgectl):
    large = ("--model", "qwen3.5-0.8b", "--concurrency", "64", "--context", "262144")  # 200 GB of KV cache
    status, _, errors = edgectl("install", "--dry-run", *large)
    assert status == 3
    assert "no model fits" in errors


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("ask for --min-tps 2.1", "ask for --model a:B"),
        (
            "ask for --context 512 --min-tps 2.1 --max-ttft 80 and free 3 MiB; or find 4 MiB",
            "ask for --context 512 --model a:B and free 3 MiB; or find 4 MiB",
        ),
        ("ask for --max-ttft 80; or ask for --reserve 64", "ask for --model a:B; or ask for --reserve 64"),
    ],
)
def test_what_would_help_is_said_in_options_that_an_installation_has(hint, said):
    assert prepare.SPEED_OPTIONS.sub("--model a:B", hint) == said


# --- options over options


def test_a_named_model_replaces_the_whole_earlier_choice():
    earlier = Options(model_file="/opt/m.gguf", mqtt_host="broker.lan", context_tokens=512)
    settled = prepare.settled(Options(model="qwen3.5-2b"), earlier)
    assert settled == Options(model="qwen3.5-2b", mqtt_host="broker.lan", context_tokens=512)


def test_auto_forgets_the_earlier_model():
    assert prepare.settled(Options(model="auto"), Options(model="qwen3.5-2b", slots=1)) == Options(slots=1)


# --- model files of one's own


def test_a_model_file_is_planned_from_its_own_header(tmp_path):
    shape = {
        "embedding_length": 64,
        "feed_forward_length": 160,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    pairs = [*basic_pairs(), *(u32_pair(f"llama.{key}", value) for key, value in shape.items())]
    path = tmp_path / "tiny-Q8_0.gguf"
    path.write_bytes(Gguf(pairs=pairs).build())
    entry = entry_of(path)
    assert (entry.id, entry.files[0].quant, entry.context_max_tokens) == ("tiny-model", "Q8_0", 256)
    geometry = entry.geometry
    assert (geometry.layers, geometry.kv_heads, geometry.head_dim, geometry.vocab) == (2, 2, 16, 3)


def _moe() -> Geometry:
    return structs.replace(load_catalog().model("qwen3.5-35b-a3b").geometry, layers=4)


@pytest.mark.parametrize(("arch", "shape"), [("gemma3", GEMMA3_270M), ("qwen35moe", _moe())])
def test_windows_and_experts_of_a_model_file_are_planned_for(tmp_path, arch, shape):
    replica = plan_replica(arch, shape, "Q8_0", context_tokens=4096)
    path = tmp_path / "mine-Q8_0.gguf"
    with path.open("wb") as file:
        file.write(replica.header())
        file.truncate(file.tell() + replica.weights_bytes)
    found = entry_of(path).geometry
    assert (found.experts, found.experts_per_token) == (shape.experts, shape.experts_per_token)
    assert (found.sliding_window, found.sliding_interval) == (shape.sliding_window, shape.sliding_interval)


def test_a_model_file_that_does_not_tell_its_shape_is_refused(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(Gguf().build())
    with pytest.raises(ModelUnusable, match="shape of the model"):
        entry_of(path)


@pytest.fixture
def lasting(monkeypatch):
    monkeypatch.setattr("edgectl.install.model_file.FLEETING", ())


@pytest.mark.usefixtures("lasting")
def test_a_model_file_that_the_service_could_not_read_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    path.chmod(0o600)
    with pytest.raises(Usage, match="cannot be read by other users"):
        require_usable(path, user=False)
    require_usable(path, user=True)


@pytest.mark.usefixtures("lasting")
def test_a_model_file_in_a_closed_home_is_shown_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("edgectl.install.model_file.HIDDEN", (tmp_path,))
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    path.chmod(0o644)
    tmp_path.chmod(0o700)
    require_usable(path, user=False)


def test_a_model_file_that_a_reboot_removes_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("edgectl.install.model_file.FLEETING", (tmp_path,))
    (tmp_path / "m.gguf").write_bytes(b"")
    with pytest.raises(Usage, match="does not outlive a reboot"):
        require_usable(tmp_path / "m.gguf", user=False)
    with pytest.raises(NotFound):
        require_usable(tmp_path / "other.gguf", user=False)


# --- the configuration as text


def test_a_configuration_written_and_read_is_the_same():
    tree_of = {
        "node": "kitchen",
        "board": 'Pi "5" \\ ½ \x7f 🍓',
        "model": {"path": "/opt/m.gguf", "mmap": False, "sampling": {"temperature": 0.2, "top_k": 40}},
        "mqtt": {"reply_prefixes": ["a/b", "c"], "username": "x", "password_file": "/run/pw"},
        "limits": {"default_ttl_s": 12.5},
        "templates": {"door-camera": {"system": "Who is it?"}, "gate_2": {"system": "Open?\n"}},
    }
    config = parse(tree_of)
    assert parse(tomllib.loads(config_text(config))) == config


def test_defaults_are_not_written():
    assert [line for line in config_text(Config()).splitlines() if line and not line.startswith("#")] == []


def test_a_path_is_taken_from_where_it_was_typed_and_a_link_stays_a_link(tmp_path, monkeypatch):
    (tmp_path / "live").mkdir()
    (tmp_path / "cert.pem").symlink_to("archive/cert1.pem")
    monkeypatch.chdir(tmp_path / "live")
    typed = {"mqtt_password_file": Path("../pw"), "mqtt_cert_file": Path("../cert.pem")}
    options = _options(dict.fromkeys(PATHS) | typed)
    assert options.mqtt_password_file == f"{tmp_path}/pw"
    assert options.mqtt_cert_file == f"{tmp_path}/cert.pem"
