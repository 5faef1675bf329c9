"""API keys at rest: only salted hashes, one clear error for each thing that is wrong with their file."""

from __future__ import annotations

import hmac
import os

import pytest

from edged.api.errors import ConfigInvalid
from edged.host.keys import (
    MAX_FILE_BYTES,
    MAX_KEYS,
    SALT_BYTES,
    Checker,
    StoredKey,
    digest,
    read_keys,
    stored,
    write_keys,
)
from edged.transports.http.auth import LOOK_EVERY_S, KeyRing
from tests.kit.keys import KEY, put_keys

OTHER = "edged_another-key-of-this-test"
GOOD = f'[phone]\nsalt = "{"0" * 32}"\nhash = "{"0" * 64}"\n'


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += LOOK_EVERY_S


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.toml"


def test_only_salted_hashes_are_stored_and_they_are_enough_to_know_a_key(path):
    put_keys(path, {"phone": KEY, "door": KEY}, per_minute=3)
    text = path.read_text()
    assert KEY not in text
    keys = read_keys(path)
    assert keys["phone"].hash != keys["door"].hash
    assert keys["phone"].per_minute == 3
    checker = Checker({"phone": keys["phone"]})
    assert checker.name_of(KEY.encode()) == "phone"
    for wrong in ("", KEY[:-1], f"{KEY}x", KEY.upper(), keys["phone"].hash):
        assert checker.name_of(wrong.encode()) is None
    assert KEY not in repr(vars(checker))


def test_each_token_takes_the_same_comparisons_whatever_it_is(monkeypatch):
    names = [f"k{number}" for number in range(MAX_KEYS)]
    checker = Checker({name: stored(f"{KEY}{name}", os.urandom(SALT_BYTES)) for name in names})
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(len(a)) or real(a, b))
    for token in (KEY + names[0], KEY + names[-1], "nothing like it", ""):
        compared.clear()
        checker.name_of(token.encode())
        assert compared == [32] * MAX_KEYS


def test_a_hash_is_one_of_a_standard_function_with_the_salt():
    """RFC 7693; another program can check a key with it."""
    import hashlib

    salt = bytes(range(16))
    expected = hashlib.blake2b(b"token", digest_size=32, salt=salt, person=b"edged api key").digest()
    assert digest(b"token", salt) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("phone = 5\n", "alone"),
        ("[phone]\n", "alone"),
        (GOOD + "colour = 1\n", "alone"),
        (GOOD + "per_minute = -1\n", "between 0 and 1000"),
        (GOOD + "per_minute = true\n", "alone"),
        (GOOD.replace("0" * 64, "0" * 63), "64 hexadecimal"),
        (GOOD.replace("0" * 32, "G" * 32, 1), "32 hexadecimal"),
        (GOOD.replace("phone", '"a b"'), "a name has"),
        ("edged_a-key-in-the-wrong-place", "not TOML"),
        ("x = " + "[" * 60_000, "not TOML"),
        ("#" * (MAX_FILE_BYTES + 1), "bytes that make sense"),
        ("".join(GOOD.replace("phone", f"k{number}") for number in range(MAX_KEYS + 1)), "65 keys"),
    ],
    ids=lambda part: part if len(part) < 30 and "\n" not in part else "",
)
def test_a_file_that_is_no_file_of_keys_is_refused_and_nothing_of_it_is_repeated(path, content, words):
    path.write_text(content)
    with pytest.raises(ConfigInvalid, match=r"http\.keys_file") as caught:
        read_keys(path)
    assert words in caught.value.message
    assert "wrong-place" not in caught.value.message


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666, 0o620])
def test_a_file_that_others_can_change_is_refused_with_the_remedy(path, mode):
    put_keys(path).chmod(mode)
    with pytest.raises(ConfigInvalid, match="chmod 644"):
        read_keys(path)


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o440, 0o400])
def test_a_file_that_others_can_only_read_is_fine_for_it_holds_hashes(path, mode):
    put_keys(path).chmod(mode)
    assert list(read_keys(path)) == ["phone"]


def test_a_fifo_or_a_folder_in_place_of_the_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(ConfigInvalid, match=r"regular file|cannot be read"):
            read_keys(tmp_path / name)


def test_what_is_written_is_read_again(path):
    keys = {"a": stored(KEY, b"s" * 16, created="2026-01-01", at_once=2, max_tokens=7), "b": StoredKey(
        salt="0" * 32, hash="f" * 64)}  # fmt: skip
    write_keys(path, keys)
    assert read_keys(path) == keys
    assert path.stat().st_mode & 0o777 == 0o644


# --- the keys in force --------------------------------------------------------------------


def test_a_start_without_any_key_is_refused_with_what_to_do(path):
    with pytest.raises(ConfigInvalid, match=r"does not exist.*edgectl keys add"):
        KeyRing(path)
    write_keys(path, {})
    with pytest.raises(ConfigInvalid, match=r"holds no key.*edgectl keys add"):
        KeyRing(path)


def test_a_changed_file_is_taken_over_within_a_second_and_a_removed_key_is_none(path):
    clock = Clock()
    ring = KeyRing(put_keys(path), clock)
    put_keys(path, {"door": OTHER})
    assert ring.name_of(KEY.encode()) == "phone"
    clock.later()
    assert ring.name_of(KEY.encode()) is None
    assert ring.name_of(OTHER.encode()) == "door"
    assert ring.key("phone") is None


def test_a_broken_change_leaves_the_keys_of_before_in_force_and_says_why(path):
    clock = Clock()
    ring = KeyRing(put_keys(path), clock)
    path.write_text("edged_a-key-in-the-wrong-place")
    clock.later()
    assert ring.name_of(KEY.encode()) == "phone"
    assert "not TOML" in ring.trouble
    assert "wrong-place" not in ring.trouble
    put_keys(path, {"door": OTHER})
    clock.later()
    assert ring.name_of(KEY.encode()) is None
    assert not ring.trouble


def test_a_file_that_is_gone_holds_no_key(path):
    clock = Clock()
    ring = KeyRing(put_keys(path), clock)
    path.unlink()
    clock.later()
    assert ring.name_of(KEY.encode()) is None
    put_keys(path)
    clock.later()
    assert ring.name_of(KEY.encode()) == "phone"
