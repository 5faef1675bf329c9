"""The programs that the page offers, taken from it and run as they are."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.integration.broker import Broker
from tests.kit.daemon import running_daemon, wait_until
from tests.kit.service import fake_model, fake_tree
from tests.page.browser import Visit

LIMIT_S = 60


@pytest.fixture(scope="module")
def programs(browser, tmp_path_factory):
    """Name → program, of a box with a broker that is there until the last of them has run."""
    folder = tmp_path_factory.mktemp("snippets")
    with Broker(folder) as broker:
        tree = fake_tree(
            fake_model(folder, answer="Yes, 7 is one."), mqtt={"enabled": True, "port": broker.port}
        )
        with running_daemon(tree, folder) as daemon, Visit(browser, daemon.url) as visit:
            wait_until(lambda: daemon.status()["mqtt"]["connected"], "the broker")
            page = visit.open()
            expect(page.locator("#conditions li")).to_have_count(0)
            tabs = page.locator("#snippet-tabs button").all_inner_texts()
            codes = [text.text_content() for text in page.locator("#snippet-panels pre").all()]
            yield dict(zip(tabs, codes, strict=True))


def test_the_page_offers_programs_for_every_way_in(programs):
    assert list(programs) == ["curl", "OpenAI, Python", "mosquitto_pub", "mosquitto_rr", "paho, Python"]


@pytest.mark.parametrize("name", ["curl", "mosquitto_pub", "mosquitto_rr"])
def test_a_program_for_the_shell_is_answered(programs, name):
    script = f"set -e\n{programs[name]}\nwait\n"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    said = "".join(re.findall(r'"content":"([^"]*)"', done.stdout)) or done.stdout
    assert "Yes, 7 is one." in said


@pytest.mark.parametrize("name", ["OpenAI, Python", "paho, Python"])
def test_a_program_in_python_is_answered(programs, name):
    done = subprocess.run(
        [sys.executable, "-c", programs[name]], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Yes, 7 is one." in done.stdout


def test_copy_puts_the_program_into_the_clipboard(browser, tmp_path):
    allowed = ["clipboard-read", "clipboard-write"]
    with (
        running_daemon(fake_tree(fake_model(tmp_path)), tmp_path) as daemon,
        Visit(browser, daemon.url, permissions=allowed) as visit,
    ):
        page = visit.open()
        page.click("#panel-0 button")
        expect(page.locator("#panel-0 [role=status]")).to_have_text("Copied.")
        assert page.evaluate("navigator.clipboard.readText()") == page.text_content("#panel-0 pre")
