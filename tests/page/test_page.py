"""The web page as a person has it: a real daemon, a real browser, nothing from any other host."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.kit.daemon import running_daemon, wait_until
from tests.kit.keys import KEY, put_keys
from tests.kit.service import fake_model, fake_tree, long_text
from tests.page.browser import PHONE, Visit

PLAN = {"decode_tps": 55.0, "first_token_500_s": 8.2, "worker_mib": 293, "speed": "measured"}
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": PHONE},
    "phone-dark": {"color_scheme": "dark", "viewport": PHONE},
}


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A box with a plan, a limit and 50 tokens a second, whose broker is away."""
    folder = tmp_path_factory.mktemp("box")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        tree = fake_tree(
            fake_model(folder, answer=long_text(400), step_s=0.02),
            memory={"budget_mib": 355},
            mqtt={"enabled": True, "port": nobody.getsockname()[1]},
        )
        tree = tree | {"node": "attic", "plan": PLAN}
        with running_daemon(tree, folder) as daemon:
            yield daemon


@pytest.fixture
def visit(browser, box):
    with Visit(browser, box.url) as one:
        yield one
    assert not one.complaints


def accessible(page) -> None:
    """No finding of axe-core that it calls serious or critical."""
    found = Axe().run(page).response["violations"]
    grave = [
        (one["id"], node["html"], node["failureSummary"])
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]
    assert not grave


def running(box) -> int:
    return box.status()["running"]


def test_the_page_loads_and_asks_no_other_host(visit, box):
    page = visit.open()
    expect(page.locator("#node")).to_have_text("attic")
    expect(page.locator("#conditions")).to_contain_text("mqtt disconnected")
    assert {urlsplit(address).netloc for address in visit.asked} == {f"127.0.0.1:{box.port}"}
    assert any(address.endswith("/status") for address in visit.asked)


def test_an_answer_streams_and_is_summed_up(visit):
    page = visit.open()
    page.fill("#prompt", "count")
    page.fill("#prompt", "count further")
    page.click("#send")
    answer = page.locator("#answer")
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(answer).to_contain_text("0 1 2")
    assert len(answer.inner_text()) < 400  # it comes in pieces
    expect(page.locator("#outcome")).to_contain_text("tokens/s")
    expect(answer).to_have_attribute("aria-busy", "false")
    assert answer.inner_text().startswith(long_text(200))


def test_stop_ends_the_answer_here_and_on_the_box(visit, box):
    page = visit.open()
    page.click("#send")
    expect(page.locator("#answer")).to_contain_text("0 1 2")
    page.click("#stop")
    expect(page.locator("#outcome")).to_have_text("Stopped.")
    expect(page.locator("#send")).to_be_enabled()
    wait_until(lambda: running(box) == 0, "the slot to be free")


def test_options_go_with_the_request(visit):
    page = visit.open()
    page.click("#ask summary")
    page.fill("#max-tokens", "5")
    page.fill("#system", "Be short.")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.click("#send")
    body = asked.value.post_data_json
    assert body["max_tokens"] == 5
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    expect(page.locator("#outcome")).to_contain_text("cut at the limit of tokens")


def test_a_refusal_is_told_in_the_words_of_the_box(visit):
    page = visit.open()
    page.fill("#prompt", "x" * 70_000)
    page.click("#send")
    expect(page.locator("#outcome")).to_contain_text("65536")
    visit.complaints.clear()  # the browser logs the status 413


def test_charts_move_and_say_in_words_what_they_show(visit):
    page = visit.open()
    for name in ("speed", "queue", "memory", "heat"):
        expect(page.locator(f"#chart-{name} svg")).to_have_attribute("aria-label", re.compile("last 1 min"))
    curve = page.locator("#chart-speed path.first")
    expect(curve).to_have_attribute("d", re.compile("L"))  # two points and a line between them
    before = curve.get_attribute("d")
    page.click("#send")
    expect(page.locator("#chart-speed .now")).to_have_text(re.compile(r"^[1-9]\d*\.\d$"))
    expect(page.locator("#chart-queue .now")).to_have_text("1 / 0")
    assert curve.get_attribute("d") != before
    told = page.locator("#chart-speed svg").get_attribute("aria-label")
    assert re.search(r"now [1-9].*, between .*; planned 55\.0", told)
    page.click("#stop")


def test_predicted_stands_beside_measured(visit, box):
    box.chat("hello", max_tokens=20)
    page = visit.open()
    row = page.locator("#plan tr").first
    expect(row).to_contain_text("55.0 tokens/s")
    expect(row.locator("td").last).to_have_text(re.compile(r"^\d+\.\d tokens/s$"))
    expect(page.locator("#chart-memory")).to_contain_text("% of 355 MiB")


@pytest.mark.parametrize("look", LOOKS)
def test_it_is_accessible_and_fits_in_every_look(browser, box, look):
    with Visit(browser, box.url, **LOOKS[look]) as visit:
        page = visit.open()
        page.click("#ask summary")
        page.click("#send")
        expect(page.locator("#outcome")).to_contain_text("tokens/s")
        for tab in page.locator("#snippet-tabs button").all():
            tab.click()
            across = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert across == 0
            accessible(page)
        visit.shot(look)
        assert not visit.complaints


def test_the_keyboard_alone_is_enough(visit):
    page = visit.open()
    focused = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.className") == "skip"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.id") == "prompt"
    page.keyboard.press("Control+a")
    page.keyboard.type("count")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer")).to_contain_text("0 1 2")
    page.keyboard.press("Escape")
    expect(page.locator("#outcome")).to_have_text("Stopped.")
    # Every stop on the way to the end shows where it is, and is left again.
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate(f"{focused}.id || {focused}.textContent.trim()")
        if page.evaluate(f"{focused} === document.body"):
            break
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") != "none", name
        seen.append(name)
    assert {"Options", "send", "tab-0", "Copy"} <= set(seen)
    page.focus("#tab-0")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{focused}.id") == "tab-1"
    expect(page.locator("#panel-1")).to_be_visible()
    expect(page.locator("#panel-0")).to_be_hidden()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{focused}.id") == "tab-0"


def test_focus_stays_on_the_button_that_can_be_pressed(visit):
    page = visit.open()
    page.focus("#send")
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#send")).to_be_focused()


def test_who_wants_no_motion_sees_none(browser, box):
    with Visit(browser, box.url, reduced_motion="reduce") as visit:
        page = visit.open()
        page.click("#send")
        expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
        moving = page.evaluate("document.getAnimations().length")
        assert moving == 0
        page.click("#stop")


def test_what_a_model_says_is_text_whatever_it_says(browser, tmp_path):
    evil = '<img src=x onerror="document.title=1"><script>alert(1)</script>'
    tree = fake_tree(fake_model(tmp_path, answer=evil.replace('"', "")))
    with running_daemon(tree, tmp_path) as daemon, Visit(browser, daemon.url) as visit:
        page = visit.open()
        page.click("#send")
        expect(page.locator("#answer")).to_contain_text("<script>alert(1)</script>")
        assert page.locator("#answer *").count() == 0
        assert not visit.complaints


def test_a_box_that_goes_away_is_said_to_be_gone_and_found_again(browser, tmp_path):
    with (
        running_daemon(fake_tree(fake_model(tmp_path)), tmp_path) as daemon,
        Visit(browser, daemon.url) as visit,
    ):
        page = visit.open()
        expect(page.locator("#state")).to_have_text("Ready")
        assert daemon.stop() == 0
        expect(page.locator("#state")).to_have_text("No connection")
        daemon.start()
        expect(page.locator("#state")).to_have_text("Ready")


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    keys = {"keys_file": str(put_keys(folder / "keys.toml"))}
    tree = fake_tree(fake_model(folder, answer="open"), http=keys)
    with running_daemon(tree, folder) as daemon:
        yield daemon


def test_a_box_with_a_key_shows_nothing_before_it_is_given(browser, locked):
    with Visit(browser, locked.url) as visit:
        page = visit.page
        page.goto(locked.url)
        expect(page.locator("#gate")).to_be_visible()
        expect(page.locator("#key")).to_be_focused()
        accessible(page)
        assert locked.get("/status")[0] == 401
        assert "fake" not in page.inner_text("body")
        page.fill("#key", "a-key-that-is-not-the-right-one")
        page.keyboard.press("Enter")
        expect(page.locator("#gate-problem")).to_contain_text("does not know this key")
        visit.shot("key")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#box")).to_be_visible()
        page.click("#send")
        expect(page.locator("#answer")).to_have_text("open")
        page.reload()
        expect(page.locator("#box")).to_be_visible()
        assert KEY not in page.content()
        assert not [address for address in visit.asked if KEY in address]
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        expect(page.locator("#panel-0")).to_contain_text("Bearer $EDGED_KEY")


def test_another_tab_does_not_know_the_key(browser, locked):
    with Visit(browser, locked.url) as visit:
        visit.page.goto(locked.url)
        expect(visit.page.locator("#gate")).to_be_visible()
