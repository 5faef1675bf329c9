"""The network beyond loopback: keys, and being found."""

from __future__ import annotations

import functools
import json

from tests.guest import machine
from tests.guest.machine import NODE, chat, edgectl, run, shown, until, web


def test_the_network_is_served_with_a_key_alone():
    machine.configure(http={"host": "0.0.0.0"})
    assert (shown("Result"), shown("ExecMainStatus")) == ("exit-code", "78")
    assert web("/healthz")[0] == 0
    assert "http.keys_file" in run("journalctl", "-u", "edged", "-n", "20", "--no-pager")

    older = machine.CONFIG.with_name("older.key")
    older.write_text("0123456789abcdef" * 3)
    machine.configure(http={"api_key_file": str(older)})
    assert shown("ExecMainStatus") == "78"
    assert "edgectl keys add NAME --from FILE" in edgectl("config", "check", ok=False)
    edgectl("keys", "add", "old", "--from", older)
    key = edgectl("keys", "add", "phone", "--at-once", "2").splitlines()[0]
    machine.configure(http={"api_key_file": None, "keys_file": str(machine.KEYS)})

    for host in (machine.lan_address(), "127.0.0.1"):
        body = chat("Say hello.")
        asked = functools.partial(web, "/v1/chat/completions", host=host, body=body)
        assert [asked()[0], asked(key="wrong")[0]] == [401, 401]
        assert machine.answered(asked(key=key))
        assert machine.answered(asked(key=older.read_text()))
    edgectl("keys", "remove", "old")
    until(lambda: web("/status", key=older.read_text())[0] == 401, "the removed key to be refused", 10)
    older.unlink()
    assert edgectl("ask", "Say hello.", "--max-tokens", "4")


def test_the_box_is_found_on_the_network():
    look = ("avahi-browse", "-rtp", "_edged._tcp")
    known = (f'"node={NODE}"', f'"topic=edged/{NODE}"', '"health=ok"')
    until(lambda: all(text in run(*look) for text in known), "avahi to see it", 30)
    told = json.loads(edgectl("discover", "--json"))
    assert [box["node"] for box in told] == [NODE]
