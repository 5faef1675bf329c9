"""The table of errors, the hosts that are ours, and the key file."""

from __future__ import annotations

import inspect
import os

import pytest

from edged.api import errors as api_errors
from edged.api.errors import REQUEST_ERRORS, Busy, ConfigInvalid, EdgeError
from edged.transports.http import errors
from edged.transports.http.auth import read_api_key
from edged.transports.http.errors import STATUS, error_response
from edged.transports.http.hosts import is_own_host, is_own_origin, own_names

KEY = "k" * 32


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


NAMES = own_names("box.lan", "Pi")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8642", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:8642", "[0:0::1]",
     "pi.local:80", "pi", "box.lan", "192.168.1.9:8642", "[::ffff:127.0.0.1]"],
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


def write_key(path, text=KEY, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_private_key_file_is_read(tmp_path, mode):
    key = read_api_key(write_key(tmp_path / "key", f"{KEY}\n", mode))
    assert key.matches(KEY.encode())
    assert not key.matches(KEY.encode() + b"x")
    assert not key.matches(b"")
    assert KEY not in repr(vars(key))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o602, 0o610])
def test_a_key_file_open_to_others_is_refused_with_the_remedy(tmp_path, mode):
    with pytest.raises(ConfigInvalid, match="chmod 600"):
        read_api_key(write_key(tmp_path / "key", mode=mode))


@pytest.mark.parametrize(
    "text", ["", "\n", "short", "two words here and more", f"{KEY}\n{KEY}", "ä" * 20, "x" * 5000]
)
def test_a_key_file_must_hold_one_good_key(tmp_path, text):
    with pytest.raises(ConfigInvalid, match=r"http\.api_key_file") as caught:
        read_api_key(write_key(tmp_path / "key", text))
    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_missing_key_file_or_a_folder_is_refused(tmp_path):
    for name in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigInvalid, match=r"http\.api_key_file"):
            read_api_key(str(name))


def test_a_fifo_in_place_of_the_key_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "key")
    with pytest.raises(ConfigInvalid, match="regular file"):
        read_api_key(str(tmp_path / "key"))


def test_a_relative_name_is_a_systemd_credential(tmp_path, monkeypatch):
    write_key(tmp_path / "api-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_api_key("api-key").matches(KEY.encode())
