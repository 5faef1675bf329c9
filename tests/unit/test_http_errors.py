"""The table of errors, and the hosts that are ours."""

from __future__ import annotations

import inspect

import pytest

from edged.api import errors as api_errors
from edged.api.errors import REQUEST_ERRORS, Busy, EdgeError
from edged.transports.http import errors
from edged.transports.http.errors import STATUS, error_response
from edged.transports.http.hosts import is_own_host, is_own_origin, own_names


def test_every_request_error_and_every_error_of_http_has_a_status():
    own = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, EdgeError) and kind is not EdgeError and kind not in vars(api_errors).values()
    ]
    assert own
    codes = [kind.code for kind in (*REQUEST_ERRORS, *own)]
    assert sorted(codes) == sorted(STATUS)
    assert all(400 <= status <= 599 for status, _ in STATUS.values())


def test_a_busy_box_says_when_to_come_back():
    response = error_response(Busy("the queue is full", retry_after_s=2.2))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert b'"retry_after_s":2.2' in response.body


NAMES = own_names(("box.lan", "LLM.example.org."), "Pi")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8642", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:8642", "[0:0::1]",
     "pi.local:80", "pi", "box.lan", "llm.example.org:443", "192.168.1.9:8642", "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_our_names_and_addresses_are_ours(host):
    assert is_own_host(host, NAMES, "192.168.1.9")


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost",
     "localhost:80:80", "localhost:x", "192.168.1.10", "[::2]", "[localhost]", "::1", "localhost/", "0x7f.1",
     "local host", "-", "."],
)  # fmt: skip
def test_other_names_are_not_ours(host):
    assert not is_own_host(host, NAMES, "192.168.1.9")


def test_only_the_page_we_served_ourselves_has_our_origin():
    assert is_own_origin("http://localhost:8642", "LOCALHOST:8642")
    for origin in (
        "null",
        "http://localhost",
        "http://localhost:3000",
        "http://evil",
        "file://",
        "",
        "localhost:8642",
    ):
        assert not is_own_origin(origin, "localhost:8642")
