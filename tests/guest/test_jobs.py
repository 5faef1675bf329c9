"""Jobs need to write, fetch and load, which the unit has to allow."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading

import pytest

from tests.guest import machine
from tests.guest.devices import answer, asking, job, wait_online
from tests.guest.machine import systemctl
from tests.kit.random_model import random_model

pytestmark = pytest.mark.usefixtures("steady")


def test_jobs_are_done_under_the_locked_down_unit(tmp_path):
    path = random_model(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    machine.configure(mqtt={"jobs": True})
    wait_online()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        pulled = job("pull", "p", url=url, sha256=digest, name="tiny")
        server.shutdown()
    assert (pulled["state"], pulled["model"], pulled["fresh"]) == ("successful", "tiny:Q8_0", True)
    assert job("switch", "s", model="tiny")["before"].startswith(machine.MODEL)
    assert answer(asking("cam", "Say hello."))["ok"]
    assert job("bench", "b")["model"] == "tiny:Q8_0"
    systemctl("restart", "edged")
    assert machine.status()["model"]["name"] == "tiny"
    wait_online()
    assert job("switch", "back", model="configured")["state"] == "successful"
    measured = job("bench", "c")
    assert measured["model"].startswith(machine.MODEL)
    assert measured["decode_tps"] > 1
    assert job("update", "u")["error"]["code"] == "unsupported"
