"""One browser for all tests of the page; each opens tabs of its own."""

from __future__ import annotations

import pytest

from tests.page.browser import chromium


@pytest.fixture(scope="session")
def browser():
    with chromium() as one:
        yield one
