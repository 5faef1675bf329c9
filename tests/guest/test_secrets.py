"""Planted secrets are looked for wherever a service and its system leave texts."""

from __future__ import annotations

import os
from pathlib import Path

from tests.guest import machine
from tests.guest.devices import credentials
from tests.guest.machine import chat, edgectl, run, web

FOLDERS = ("/var/lib/private/edged", "/var/lib/edged-install", "/etc/systemd", "/var/lib/systemd/coredump")


def test_no_secret_is_in_the_journal_a_process_a_command_or_a_dump():
    machine.require_keys()
    key = edgectl("keys", "add", "canary").splitlines()[0]
    canaries = {"password": machine.PASSWORD_FILE.read_text(), "key": key, "edgectl's key": machine.own_key()}
    refused = f"edged_refused-{os.urandom(16).hex()}"
    assert machine.answered(web("/v1/chat/completions", key=key, body=chat("Say hello.")))
    assert web("/v1/models", key=refused)[0] == 401
    web(f"/v1/models?key={refused}")
    shown_texts = {}
    for pid in machine.processes():
        for place in ("cmdline", "environ"):
            shown_texts[f"{place} of {pid}"] = Path(f"/proc/{pid}/{place}").read_text()
    for words in ("config show", "config show --json", "config check", "status --json", "status", "keys list",
                  "keys list --json", "logs -n 500", "install --dry-run"):  # fmt: skip
        shown_texts[words] = edgectl(*words.split(), ok=False)
    for path in ("/metrics", "/status", "/openapi.json"):
        code, shown_texts[path] = web(path, key=key)
        assert code == 200
    everything = ("mosquitto_sub", *credentials("operator"), "-v", "-W", "2", "-t", "#")
    shown_texts["broker"] = run(*everything, ok=False)
    for folder in FOLDERS:
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.stat().st_size < 1 << 24:
                shown_texts[str(path)] = path.read_bytes().decode(errors="replace")
    shown_texts |= {str(path): path.read_text() for path in (machine.CONFIG, machine.KEYS)}
    shown_texts["journal"] = machine.journal()
    assert "client=key:canary" in shown_texts["journal"]
    assert len(machine.processes()) >= 2
    for place, text in shown_texts.items():
        found = [name for name, canary in {**canaries, "refused key": refused}.items() if canary in text]
        assert not found, place
    edgectl("keys", "remove", "canary")
