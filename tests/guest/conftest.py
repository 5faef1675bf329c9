"""One installation by `edgectl install`, for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.guest import machine
from tests.guest.devices import wait_online


@pytest.fixture(scope="session", autouse=True)
def _box():
    """The hardened service with a broker that asks for passwords; everything is removed again at the end."""
    if reason := machine.why_not():
        pytest.skip(reason)
    machine.empty_journal()
    try:
        machine.set_up_broker()
        machine.edgectl(
            "install", "--yes", "--model", machine.MODEL, "--context", "1024",
            "--mqtt-username", "edged", "--mqtt-password-file", machine.PASSWORD_FILE,
        )  # fmt: skip
        wait_online()
        yield
    finally:
        machine.edgectl("uninstall", "--purge", "--yes", ok=False)
        machine.remove_broker_files()


@pytest.fixture
def steady():
    """Systemd has no reason to start the service anew."""
    machine.until(lambda: machine.shown("ActiveState") == "active", "the service")
    yield
    assert (machine.shown("NRestarts"), machine.shown("Result")) == ("0", "success")
