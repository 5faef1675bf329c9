"""A headless Chromium in front of a real daemon, and what it saw."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from playwright.sync_api import Page, expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

SHOTS = Path(__file__).resolve().parents[2] / "build/page"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1200, "height": 900}
PATIENCE_MS = 15_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where there is no Chromium: `apt install chromium`."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this computer (apt install chromium)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # Root, as in CI, has no sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One tab, with every address it asked for and everything it complained about."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": DESK, **options})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None,
        )

    def open(self) -> Page:
        """The page, once it shows the box."""
        self.page.goto(self.url)
        expect(self.page.locator("#box")).to_be_visible()
        expect(self.page.locator("#snippet-tabs button").first).to_be_visible()
        return self.page

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
