"""`edgectl keys`: a key is shown once and nowhere else, limits are kept, mistakes change nothing."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from edgectl.cli import cli
from edgectl.client.target import of_config
from edged.host.config import load
from edged.host.keys import Checker, read_keys

NOBODY = 65534
OLD = "an-older-key-of-a-generator-0123456789abcdef"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config = tmp_path / "edged" / "edged.toml"
    config.parent.mkdir()
    config.write_text('[model]\npath = "/m.gguf"\n')
    monkeypatch.setattr("edgectl.commands.keys.local_config_path", lambda: config)
    return config.parent


def keys(*words, code=0):
    """Standard output and standard error of `edgectl keys WORDS`."""
    done = CliRunner().invoke(cli, ["keys", *map(str, words)], standalone_mode=code == 0)
    if code:
        assert done.exception is not None, done.output
        return done.exception
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_a_made_key_is_the_only_line_of_output_and_works(folder):
    out, err = keys("add", "phone", "--per-minute", 30, "--at-once", 2, "--max-tokens", 256)
    key = out.strip()
    assert key.startswith("edged_")
    assert len(key) > 43  # 256 bits
    assert key not in err
    stored = read_keys(folder / "keys.toml")
    assert Checker(stored).name_of(key.encode()) == "phone"
    assert (stored["phone"].per_minute, stored["phone"].at_once, stored["phone"].max_tokens) == (30, 2, 256)
    assert key not in "".join(path.read_text() for path in folder.iterdir())


def test_the_first_key_comes_with_one_for_edgectl_on_this_computer(folder):
    _, err = keys("add", "phone")
    own = folder / "edgectl.key"
    assert own.stat().st_mode & 0o777 == 0o600
    stored = read_keys(folder / "keys.toml")
    assert Checker(stored).name_of(own.read_text().strip().encode()) == "edgectl"
    line = f'keys_file = "{folder / "keys.toml"}"'
    assert line in err
    config = folder / "edged.toml"
    config.write_text(f'[model]\npath = "/m.gguf"\n[http]\nhost = "0.0.0.0"\n{line}\n')
    assert of_config(load(config), config).key_file == own
    _, again = keys("add", "door")
    assert "keys_file =" not in again
    keys("remove", "edgectl")
    assert not own.exists()
    assert list(read_keys(folder / "keys.toml")) == ["phone", "door"]


def test_a_key_whose_hash_cannot_be_written_is_not_left_either(folder):
    done = subprocess.run(
        [sys.executable, "-m", "edgectl", "keys", "add", "phone", "--file", str(folder / "keys.toml")],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        # A disk with room for the key and not for the hashes.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "keys.toml cannot be written" in done.stderr
    assert done.returncode not in {0, 1}
    assert [path.name for path in folder.iterdir()] == ["edged.toml"]


def test_keys_are_listed_with_their_limits_and_without_anything_secret(folder):
    assert "no keys" in keys("list")[0]
    key = keys("add", "phone", "--per-minute", 30)[0].strip()
    out, _ = keys("list")
    assert "phone" in out
    assert "per_minute 30" in out
    told = json.loads(keys("list", "--json")[0])
    assert [one["name"] for one in told["keys"]] == ["phone", "edgectl"]
    assert told["keys"][0]["per_minute"] == 30
    stored = read_keys(folder / "keys.toml")["phone"]
    assert not {key, stored.hash, stored.salt} & set(str(told).replace("'", " ").split())


def test_a_script_gets_json(folder):
    made = json.loads(keys("add", "phone", "--json")[0])
    assert Checker(read_keys(folder / "keys.toml")).name_of(made["key"].encode()) == "phone"
    assert json.loads(keys("remove", "phone", "--json")[0])["left"] == ["edgectl"]


def test_a_key_that_clients_have_is_taken_over(folder, tmp_path):
    (tmp_path / "old").write_text(f"{OLD}\n")
    out, _ = keys("add", "old", "--from", tmp_path / "old")
    assert out == ""
    assert Checker(read_keys(folder / "keys.toml")).name_of(OLD.encode()) == "old"


def test_a_removed_key_is_gone(folder):
    keys("add", "phone")
    keys("remove", "phone")
    assert list(read_keys(folder / "keys.toml")) == ["edgectl"]


def test_another_file_can_be_named(folder, tmp_path):
    keys("add", "phone", "--file", tmp_path / "other" / "keys.toml")
    assert "phone" in read_keys(tmp_path / "other" / "keys.toml")
    assert not (folder / "keys.toml").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "a b"], "cannot be a name"),
        (["add", "phone"], "already"),
        (["remove", "nobody"], "no key 'nobody'"),
        (["add", "weak", "--from", "WEAK"], "too easy"),
        (["add", "x", "--from", "NONE"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_clear_error_and_changes_nothing(folder, tmp_path, words, told):
    keys("add", "phone")
    (tmp_path / "WEAK").write_text("password")
    before = (folder / "keys.toml").read_bytes()
    words = [str(tmp_path / word) if word in {"WEAK", "NONE"} else word for word in words]
    error = keys(*words, code=2)
    assert told in error.message
    assert "password" not in error.message
    assert (folder / "keys.toml").read_bytes() == before


def test_a_broken_file_is_never_written_over(folder):
    (folder / "keys.toml").write_text("mine = [")
    error = keys("add", "phone", code=2)
    assert error.code == "config"
    assert (folder / "keys.toml").read_text() == "mine = ["


def test_two_at_the_same_time_lose_no_key(folder):
    from edgectl.commands.keys import _changing, _new_key, _stored

    def make(name):
        with _changing(folder / "keys.toml") as found:
            found[name] = _stored(_new_key())

    threads = [threading.Thread(target=make, args=(f"k{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_keys(folder / "keys.toml")) == sorted(f"k{number}" for number in range(8))


def test_a_file_of_root_needs_root(folder):
    keys("add", "phone")
    mine = os.geteuid()
    folder.chmod(0o500)
    if mine == 0:
        os.seteuid(NOBODY)
    try:
        error = keys("add", "door", "--file", folder / "keys.toml", code=10)
    finally:
        os.seteuid(mine)
        folder.chmod(0o700)
    assert error.code == "needs_root"
    assert "phone" in read_keys(folder / "keys.toml")


def test_the_key_file_of_before_is_explained():
    from edged.api.errors import ConfigInvalid
    from edged.host.config import parse

    with pytest.raises(ConfigInvalid, match=r"http\.api_key_file: .*edgectl keys add NAME --from FILE"):
        parse({"model": {"path": "/m"}, "http": {"api_key_file": "/etc/edged/key"}})
