"""Planted secrets are looked for wherever the running daemon could show them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from edged.host.keys import read_keys
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.http_serving import every_route
from tests.kit.keys import put_keys
from tests.kit.service import fake_model, fake_tree

# Each is somewhere the daemon reads, or somebody sends it.
KEY = "edged_canary-of-a-key-that-is-in-force-0001"
WRONG = "edged_canary-of-a-key-that-is-not-0002"
PASSWORD = "canary-of-the-brokers-password-0003"
PROMPT = "canary of a prompt 0004"
QUERY = "canary-in-a-query-0005"
CANARIES = {"key": KEY, "wrong key": WRONG, "password": PASSWORD, "prompt": PROMPT, "query": QUERY}
SECRETS = {"key": KEY, "password": PASSWORD}


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A daemon at its most talkative, with a key, and a broker's password that it tries and tries."""
    folder = tmp_path_factory.mktemp("box")
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    broker = {"enabled": True, "port": 1, "username": "box", "password_file": str(password)}
    tree = fake_tree(
        fake_model(folder),
        http={"keys_file": str(put_keys(folder / "keys.toml", {"phone": KEY}, per_minute=20))},
        mqtt=broker,
        log={"level": "debug"},
    )
    with running_daemon(tree, folder) as daemon:
        for method, path in every_route():
            for key in (KEY, WRONG):
                request(daemon, method, path, key)
        wait_until(lambda: "mqtt" in daemon.log, "an attempt to reach the broker")
        yield daemon


def request(box, method, path, key):
    """Everything that comes back, head and body."""
    body = {"messages": [{"role": "user", "content": PROMPT}], "model": QUERY if "class" in path else None}
    asked = urllib.request.Request(
        f"{box.url}{path}?key={QUERY}",
        json.dumps(body).encode() if method == "POST" else None,
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return f"{answer.headers}{answer.read().decode(errors='replace')}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.headers}{error.read().decode(errors='replace')}"


def processes(box):
    """The daemon and all its children."""
    found = [box.pid]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def test_the_log_never_holds_a_key_a_password_or_a_prompt(box):
    assert "client=key:phone" in box.log  # it does tell who asked
    for name, canary in CANARIES.items():
        assert canary not in box.log, name


@pytest.mark.parametrize("place", ["cmdline", "environ"])
def test_no_process_shows_a_secret_to_its_neighbours(box, place):
    assert len(processes(box)) >= 2
    for pid in processes(box):
        shown = Path(f"/proc/{pid}/{place}").read_bytes()
        for name, canary in CANARIES.items():
            assert canary.encode() not in shown, (pid, name)


def test_no_route_tells_a_secret_or_its_hash(box):
    stored = read_keys(box.config.with_name("keys.toml"))["phone"]
    hidden = {**SECRETS, "salt": stored.salt, "hash": stored.hash}
    for method, path in every_route():
        if method == "GET":
            told = request(box, method, path, KEY)
            for name, canary in hidden.items():
                assert canary not in told, (path, name)
        refused = request(box, method, path, WRONG)
        assert WRONG not in refused, path


@pytest.mark.parametrize("words", [("config", "show"), ("config", "show", "--json"), ("config", "check"),
                                   ("keys", "list"), ("status", "--json"), ("status",)])  # fmt: skip
def test_no_command_shows_a_secret(box, words, tmp_path):
    (tmp_path / "key").write_text(KEY)
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(tmp_path),
        "EDGECTL_URL": box.url,
        "EDGECTL_KEY_FILE": str(tmp_path / "key"),
    }
    named = {"config": [str(box.config)], "keys": ["--file", str(box.config.with_name("keys.toml"))]}
    command = [sys.executable, "-m", "edgectl", *words, *named.get(words[0], [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.stdout
    assert done.returncode in {0, 6}, done.stderr  # 6: its broker is away
    for name, canary in CANARIES.items():
        assert canary not in done.stdout + done.stderr, name


def test_nothing_that_the_daemon_writes_holds_a_secret(box):
    for path in box.state.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for name, canary in CANARIES.items():
                assert canary.encode() not in content, (path, name)
    assert KEY not in box.config.with_name("keys.toml").read_text()


def test_a_broken_file_of_keys_is_a_condition_until_it_is_mended_and_locks_nobody_out(box):
    keys = box.config.with_name("keys.toml")
    good = keys.read_text()

    def conditions():
        told = json.loads(request(box, "GET", "/status", KEY).partition("\n\n")[2])["conditions"]
        return {one["code"]: one["message"] for one in told}

    keys.write_text(f"phone = {PASSWORD}")
    try:
        told = wait_until(lambda: conditions().get("keys_not_read"), "the change to be noticed")
        assert PASSWORD not in told
        assert PASSWORD not in box.log
    finally:
        keys.write_text(good)
    wait_until(lambda: "keys_not_read" not in conditions(), "the mended file to be read")
