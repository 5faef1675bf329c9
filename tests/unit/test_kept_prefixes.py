"""Evaluated system messages on disk: whole, ours, bounded, and never in the way."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from edged.ipc.frames import pack
from edged.ipc.messages import Keep
from edged.worker.backends.base import new_state
from edged.worker.kept import KeptPrefixes
from edged.worker.prefixes import Prefix, key_of
from tests.kit.fake_stage import Stage

LIMIT = 1 << 20
CACHE = 1 << 20
SYSTEM = "You watch a pump. Say in one word how it does, or which part of it needs a person." * 2
HEAD = len(f"<system>{SYSTEM}<user>")


def kept(folder, *, key: str = "engine and model", most: int = 4) -> KeptPrefixes:
    return KeptPrefixes(Keep(folder=str(folder), key=key, most=most))


def prefix(number: int, size: int = 5000) -> Prefix:
    state = new_state(size)
    state[:] = bytes(byte % 251 for byte in range(number, number + size))
    key = key_of([number] * 40)
    return Prefix(key, state, size + len(key), shared=True)


def write(store: KeptPrefixes, *prefixes: Prefix) -> None:
    for one in prefixes:
        store.write(one)
        store.wait()


def files(folder) -> list:
    return sorted(folder.glob("*"))


def test_what_is_written_is_read_again(tmp_path):
    folder = tmp_path / "not yet there"
    write(kept(folder), prefix(1), prefix(2))
    found = {one.key: one for one in kept(folder).read(LIMIT)}
    for expected in (prefix(1), prefix(2)):
        one = found.pop(expected.key)
        assert bytes(one.state) == bytes(expected.state)
        assert (one.size_bytes, one.shared) == (expected.size_bytes, True)
    assert not found
    assert folder.stat().st_mode & 0o077 == 0


def test_there_are_never_more_files_than_asked_for_and_the_last_used_stay(tmp_path):
    store = kept(tmp_path, most=3)
    for number in range(5):
        write(store, prefix(number))
        newest = max(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(number, number))
    write(store, prefix(2))  # used again
    write(store, prefix(9))
    assert [one.key for one in store.read(LIMIT)] == [prefix(number).key for number in (9, 2, 4)]


def test_only_what_fits_is_read_and_what_does_not_stays(tmp_path):
    write(kept(tmp_path), prefix(1, 9000), prefix(2, 3000))
    assert [one.key for one in kept(tmp_path).read(4000)] == [prefix(2).key]
    assert len(files(tmp_path)) == 2


def test_the_files_of_another_engine_model_or_configuration_are_removed(tmp_path):
    write(kept(tmp_path), prefix(1))
    assert list(kept(tmp_path, key="another").read(LIMIT)) == []
    assert files(tmp_path) == []


@given(st.data())
def test_a_damaged_file_is_removed_and_the_others_are_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("kept")
    write(kept(folder), prefix(1, 300))
    (path,) = files(folder)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    write(kept(folder), prefix(2, 300))
    found = [one.key for one in kept(folder).read(LIMIT)]
    # One bit of the tokens in the header may turn them into others: the engine's own check is for that.
    assert prefix(1).key not in found
    assert prefix(2).key in found


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = kept(tmp_path / "file")
    write(store, prefix(1))
    assert list(store.read(LIMIT)) == []
    assert "cannot be kept on disk" in caplog.text


def test_what_proves_useful_survives_a_restart(tmp_path):
    for round_ in range(2):
        store = kept(tmp_path)
        box = Stage(context=1024, cache_bytes=CACHE, kept=store)
        box.loop._sharing.load(0)
        box.ask(1, "first", system=SYSTEM)
        assert box.cached(1) == (HEAD if round_ else 0)
        store.wait()
        assert len(files(tmp_path)) == round_
        box.ask(2, "other", system=SYSTEM)
        store.wait()
        assert len(files(tmp_path)) == 1


def test_a_state_that_the_engine_refuses_is_removed(tmp_path):
    key = key_of([5] * 40)
    state = new_state(4000)
    write(kept(tmp_path), Prefix(key, state, 4000 + len(key), shared=True))
    box = Stage(context=1024, cache_bytes=CACHE, kept=kept(tmp_path))
    box.loop._sharing.load(0)
    assert files(tmp_path) == []
    assert len(box.loop._sharing.store) == 0
    assert not box.backend._cells


def test_a_header_with_a_flipped_bit_or_of_nothing_but_brackets_is_no_prefix(tmp_path):
    store = kept(tmp_path)
    write(store, prefix(1), prefix(2))
    flipped, nested = files(tmp_path)
    data = bytearray(flipped.read_bytes())
    data[data.index(b"engine and model")] |= 0x80
    flipped.write_bytes(data)
    nested.write_bytes(pack(b"\x81\xa4more" + b"\x91" * 100_000))
    assert list(store.read(LIMIT)) == []
    assert files(tmp_path) == []
