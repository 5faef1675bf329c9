"""The broker goes, comes back, changes its password, is another one."""

from __future__ import annotations

import json
import time

import pytest

from tests.guest import machine
from tests.guest.devices import answer, asking, wait_online
from tests.guest.machine import chat, edgectl, run, shown, systemctl, until, web

pytestmark = pytest.mark.usefixtures("steady")

QUIET_S = 60.0


@pytest.mark.timeout(400)
def test_a_broker_that_is_gone_and_comes_back_finds_the_box_as_it_was():
    key = machine.own_key()
    systemctl("stop", "mosquitto")
    ended = time.monotonic() + QUIET_S
    while time.monotonic() < ended:
        assert machine.answered(web("/v1/chat/completions", key=key, body=chat("Say hello.", 4)))
        time.sleep(5)
    assert [one["code"] for one in machine.status()["conditions"]] == ["mqtt_disconnected"]
    systemctl("start", "mosquitto")
    wait_online()
    assert answer(asking("cam", "Say hello."))["ok"]
    until(lambda: machine.status()["conditions"] == [], "nothing to complain about", 20)


@pytest.mark.timeout(400)
def test_without_a_broker_from_the_start_it_serves_says_so_and_costs_next_to_nothing(record_property):
    systemctl("stop", "mosquitto")
    systemctl("restart", "edged")
    assert machine.answered(web("/v1/chat/completions", key=machine.own_key(), body=chat("Say hello.", 4)))
    assert [one["code"] for one in machine.status()["conditions"]] == ["mqtt_disconnected"]
    before = machine.cpu_s()
    time.sleep(QUIET_S)  # the promise is about a minute
    share = (machine.cpu_s() - before) / QUIET_S
    record_property("cpu_share_without_a_broker", round(share, 4))
    systemctl("start", "mosquitto")
    wait_online()
    assert share < 0.01


@pytest.mark.timeout(400)
def test_a_new_password_is_in_force_after_a_restart_and_until_then_the_box_says_what_is_wrong():
    changed = f"{machine.PASSWORD}-2"
    run("mosquitto_passwd", "-b", machine.MOSQUITTO / "edged.passwd", "edged", changed)
    machine.PASSWORD_FILE.write_text(changed)
    systemctl("restart", "mosquitto")
    until(lambda: "restart edged" in json.dumps(machine.status()["conditions"]), "the refusal to be told", 90)
    systemctl("restart", "edged")
    wait_online()


def test_another_broker_is_reached_with_tls_and_a_certificate():
    files = {name: machine.CERTIFICATES / path for name, path in
             {"ca": "ca.pem", "cert": "edged.pem", "key": "edged.key"}.items()}  # fmt: skip
    options = [word for name, path in files.items() for word in (f"--mqtt-{name}-file", path)]
    edgectl("install", "--yes", "--mqtt-host", "localhost", "--mqtt-port", "8883", *options)
    wait_online()
    assert answer(asking("cam", "Say hello.", tls=True))["ok"]
    assert (files["key"].stat().st_mode & 0o077, shown("Result")) == (0, "success")
    assert "nothing was changed" in edgectl("install", "--yes")
