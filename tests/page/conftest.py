"""One browser for the tests of a file; each opens tabs of its own."""

from __future__ import annotations

import pytest

from tests.page.browser import chromium


@pytest.fixture(scope="module")  # while it is there, no test of this thread can have a loop of its own
def browser():
    with chromium() as one:
        yield one
