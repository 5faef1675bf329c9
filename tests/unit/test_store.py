"""The model store shows verified files only, keeps names inside itself, and says clearly what failed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl.errors import EdgeError, IntegrityError, NeedsRoot, NoSpace, NotFound, StorageFailed, Usage
from edgectl.models.names import as_filename, as_model_id, is_filename, is_model_id, is_quant
from edgectl.models.refs import Ref
from edgectl.models.storage import RESERVE_BYTES, free_bytes, require_space, storage_error
from edgectl.models.store import Store
from edged.api.errors import Busy

PAYLOAD = b"weights " * 1000


def ref_for(payload: bytes = PAYLOAD, model: str = "tiny", quant: str = "Q8_0", **changes: object) -> Ref:
    fields = {
        "model": model,
        "quant": quant,
        "filename": "tiny.gguf",
        "sha256": hashlib.sha256(payload).hexdigest(),
        "size_bytes": len(payload),
        "source": "test",
        "added_at": "2026-01-02T03:04:05Z",
    }
    return Ref(**{**fields, **changes})


def put(store: Store, payload: bytes = PAYLOAD, **names: str) -> Ref:
    with store.new_partial() as part:
        part.write(payload)
        return store.publish(part, ref_for(payload, **names))


def files_under(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "models")


def test_looking_at_an_absent_store_creates_nothing(store):
    assert store.list() == ()
    assert store.find("tiny") is None
    assert store.unfinished() == ()
    assert list(store.verify()) == []
    assert not store.root.exists()


def test_a_published_file_is_found_listed_and_readable_by_the_daemon(store):
    old_mask = os.umask(0o077)
    try:
        ref = put(store)
    finally:
        os.umask(old_mask)

    path = store.path_of(ref)
    assert path.read_bytes() == PAYLOAD
    assert path.name == f"sha256-{ref.sha256}"
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert store.find("tiny") == store.find("tiny", "q8_0") == ref
    assert store.list() == (ref,)
    assert json.loads((store.root / "refs/tiny/Q8_0.json").read_text())["sha256"] == ref.sha256


def test_nothing_is_visible_before_it_is_published(store):
    with store.new_partial() as part:
        part.write(PAYLOAD)
        assert store.list() == ()
        assert not store.has_blob(part.sha256)
    assert files_under(store.root) == set()


def test_wrong_bytes_never_become_visible(store):
    with store.partial("a" * 64) as part:
        part.write(b"other bytes")
        with pytest.raises(IntegrityError) as caught:
            store.publish(part, ref_for())
    assert hashlib.sha256(b"other bytes").hexdigest() in caught.value.message
    assert store.list() == ()
    assert files_under(store.root) == set()


def test_two_names_share_one_file_and_the_last_one_takes_it_along(store):
    first, second = put(store, model="one"), put(store, model="two")
    assert store.path_of(first) == store.path_of(second)

    assert store.remove(first) is False
    assert store.path_of(second).exists()
    assert store.remove(second) is True
    assert not store.path_of(second).exists()
    assert not (store.root / "refs/one").exists()


def test_a_name_given_to_new_bytes_lets_the_old_ones_go(store):
    old, new = put(store), put(store, b"newer weights")
    assert store.find("tiny") == new
    assert not store.path_of(old).exists()


def test_a_model_with_two_quantizations_must_be_named_in_full(store):
    put(store), put(store, b"smaller", quant="Q4_0")
    with pytest.raises(Usage) as caught:
        store.find("tiny")
    assert "tiny:Q4_0" in caught.value.hint
    assert store.find("tiny", "Q4_0").quant == "Q4_0"


def test_a_name_whose_file_is_gone_is_not_found_but_listed(store):
    ref = put(store)
    store.path_of(ref).unlink()
    assert store.find("tiny") is None
    assert store.list() == (ref,)
    assert [item.state for item in store.verify()] == ["missing"]


def test_verify_sets_a_damaged_file_aside(store):
    good, bad = put(store), put(store, b"will rot", model="rotten")
    path = store.path_of(bad)
    path.write_bytes(b"has rot!")

    found = {item.ref.model: item.state for item in store.verify()}

    assert found == {"tiny": "ok", "rotten": "damaged"}
    assert not path.exists()
    assert path.with_name(f"damaged-{bad.sha256}").read_bytes() == b"has rot!"
    assert store.find("rotten") is None
    assert store.find("tiny") == good


def test_a_fresh_copy_replaces_a_damaged_one(store):
    ref = put(store)
    store.path_of(ref).write_bytes(b"x" * len(PAYLOAD))
    list(store.verify())

    put(store)

    assert [item.state for item in store.verify()] == ["ok"]
    assert not list((store.root / "blobs").glob("damaged-*"))


def test_verify_reports_its_progress(store):
    ref = put(store)
    seen = []
    list(store.verify(progress=lambda item, done: seen.append((item.spec, done))))
    assert seen == [("tiny:Q8_0", ref.size_bytes)]


def test_bytes_left_without_a_name_can_be_adopted(store):
    ref = put(store)
    (store.root / "refs/tiny/Q8_0.json").unlink()
    assert store.find("tiny") is None

    assert store.adopt(ref) == ref
    assert store.find("tiny") == ref


def test_damaged_bytes_are_not_adopted(store):
    ref = put(store)
    store.path_of(ref).write_bytes(b"x" * len(PAYLOAD))
    with pytest.raises(IntegrityError):
        store.adopt(ref)
    assert not store.path_of(ref).exists()


# --- importing ---------------------------------------------------------------------------


def test_a_file_is_copied_and_named_by_what_it_holds(store, tmp_path):
    source = tmp_path / "stick.gguf"
    source.write_bytes(PAYLOAD)
    seen = []

    ref = store.add_file(source, lambda copy, sha256, size: ref_for(copy.read_bytes()), seen.append)

    assert store.path_of(ref).read_bytes() == PAYLOAD
    assert source.read_bytes() == PAYLOAD
    assert seen == [len(PAYLOAD)]


def test_a_refused_import_leaves_nothing(store, tmp_path):
    source = tmp_path / "stick.gguf"
    source.write_bytes(PAYLOAD)

    def refuse(copy: Path, sha256: str, size: int) -> Ref:
        raise IntegrityError("not a model")

    with pytest.raises(IntegrityError):
        store.add_file(source, refuse)
    assert files_under(store.root) == set()


@pytest.mark.parametrize("name", ["absent.gguf", "."])
def test_importing_what_is_no_file_is_not_found(store, tmp_path, name):
    with pytest.raises(NotFound):
        store.add_file(tmp_path / name, lambda *_: ref_for())


# --- interrupted and concurrent writers --------------------------------------------------


def test_a_broken_off_download_is_kept_and_resumed(store):
    key = ref_for().sha256
    with contextlib.suppress(KeyboardInterrupt), store.partial(key) as part:
        part.write(PAYLOAD[:3000])
        raise KeyboardInterrupt

    with store.partial(key) as part:
        assert part.resume() == 3000
        part.write(PAYLOAD[3000:])
        store.publish(part, ref_for())
    assert store.path_of(ref_for()).read_bytes() == PAYLOAD


def test_a_restart_forgets_what_was_there(store):
    with store.partial("b" * 64) as part:
        part.write(b"junk")
        part.restart()
        part.write(PAYLOAD)
        assert part.sha256 == ref_for().sha256
        store.publish(part, ref_for())
    assert store.path_of(ref_for()).read_bytes() == PAYLOAD


def test_an_empty_download_leaves_no_file(store):
    with store.partial("c" * 64):
        pass
    assert files_under(store.root) == set()


def test_two_downloads_of_one_file_do_not_clash(store):
    with store.partial("d" * 64) as part:
        part.write(b"x")
        with pytest.raises(Busy) as caught, store.partial("d" * 64):
            pass
        assert caught.value.retryable
        part.write(b"y")
    assert (store.root / "partial" / f"{'d' * 64}.part").read_bytes() == b"xy"


def test_another_process_holding_the_file_counts_too(store):
    with store.partial("e" * 64) as part:
        part.write(b"x")
    held = store.root / "partial" / f"{'e' * 64}.part"
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(Busy), store.partial("e" * 64):
            pass
        assert store.unfinished() == ()
        assert store.clean(downloads_older_than_s=0) == ()
        process.stdin.close()
        assert process.wait(timeout=20) == 0
    assert [item.path for item in store.unfinished()] == [held]


def test_stale_files_are_reported_and_cleaned(store):
    with store.partial("f" * 64) as part:
        part.write(b"1234")
    leftover = store.root / "partial/import-1-abcd.part"
    leftover.write_bytes(b"dead import")

    assert [item.size_bytes for item in store.unfinished()] == [4, 11]
    assert [item.path for item in store.clean(downloads_older_than_s=3600)] == [leftover]
    os.utime(store.root / "partial" / f"{'f' * 64}.part", (0, 0))
    assert len(store.clean(downloads_older_than_s=3600)) == 1
    assert store.unfinished() == ()


def test_the_store_lock_is_free_after_an_error(store):
    put(store)
    with pytest.raises(Usage):
        store.publish(store.new_partial(), ref_for(filename="../x"))
    with (store.root / ".lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- names -------------------------------------------------------------------------------

TRICKS = [
    "", ".", "..", "../x", "..\\x", "/etc/passwd", "a/b", "a\\b", "a\x00b", "a\nb", "tiny\n", ".hidden",
    "-rf", "a" * 65, "Tiny", "tíny", "tiny ", "%2e%2e", "a/../../b", "CON:", "~root", "$HOME", "*", "tiny.",
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_a_tricky_model_name_is_refused_everywhere(store, name):
    assert not is_model_id(name)
    with pytest.raises(Usage):
        store.find(name)
    with pytest.raises(Usage):
        put(store, model=name)
    with pytest.raises(Usage):
        store.remove(ref_for(model=name))
    assert not [path for path in files_under(store.root) if path.startswith(("refs", "blobs"))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.one_of(st.text(max_size=80), st.text("./\\-_ab\x00\n%~", max_size=12), st.sampled_from(TRICKS)),
    quant=st.one_of(st.text(max_size=40), st.text("./\\-_Q4\x00\n", max_size=12)),
    digest=st.one_of(st.text(max_size=70), st.text("0123456789abcdef", min_size=64, max_size=64)),
    filename=st.one_of(st.text(max_size=20), st.just("tiny.gguf")),
)
def test_no_name_leads_outside_the_store(tmp_path, model, quant, digest, filename):
    store = Store(tmp_path / "models")
    ref = ref_for(model=model, quant=quant, sha256=digest, filename=filename)
    calls = [
        lambda: store.find(model, quant), lambda: store.path_of(ref), lambda: store.remove(ref),
        lambda: store.adopt(ref), lambda: store.partial(digest).__enter__().__exit__(None, None, None),
        lambda: put(store, model=model, quant=quant, filename=filename), lambda: list(store.verify([ref])),
    ]  # fmt: skip
    for call in calls:
        try:
            found = call()
        except EdgeError:
            continue
        if isinstance(found, Path):
            assert found.resolve().parent == (store.root / "blobs").resolve()
    assert {path.name for path in tmp_path.iterdir()} <= {"models"}
    assert {path.name for path in store.root.glob("*")} <= {"blobs", "refs", "partial", ".lock"}
    for path in store.root.glob("refs/**/*.json"):
        assert is_model_id(path.parent.name)
        assert is_quant(path.stem)


@given(st.text(max_size=120))
def test_names_made_from_any_text_are_valid(text):
    assert is_model_id(as_model_id(text))
    assert is_filename(as_filename(text))


def test_a_readable_name_stays_readable():
    assert as_model_id("Qwen3.5 0.8B (Instruct)") == "qwen3.5-0.8b-instruct"
    assert as_filename("My Model Q4.gguf") == "My-Model-Q4.gguf"


@pytest.mark.parametrize("folder", ["blobs", "refs", "partial"])
def test_a_linked_folder_is_refused_and_its_target_untouched(store, tmp_path, folder):
    outside = tmp_path / "outside"
    outside.mkdir()
    store.root.mkdir()
    (store.root / folder).symlink_to(outside)
    with pytest.raises(StorageFailed, match="symbolic link"):
        put(store)
    assert list(outside.iterdir()) == []


def test_a_linked_model_folder_is_neither_written_nor_emptied(store, tmp_path):
    put(store, model="other")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Q8_0.json").write_bytes(msgspec.json.encode(ref_for()))
    (store.root / "refs/tiny").symlink_to(outside)

    for call in (lambda: put(store), lambda: store.remove(ref_for())):
        with pytest.raises(StorageFailed, match="symbolic link"):
            call()

    assert store.find("tiny") is None
    assert store.broken() == (store.root / "refs/tiny",)
    assert (outside / "Q8_0.json").exists()


def test_a_linked_file_is_never_loaded_or_followed(store, tmp_path):
    ref = put(store)
    secret = tmp_path / "secret"
    secret.write_bytes(PAYLOAD)
    store.path_of(ref).unlink()
    store.path_of(ref).symlink_to(secret)

    assert store.find("tiny") is None
    assert [item.state for item in store.verify()] == ["unreadable"]


def test_a_linked_partial_file_is_not_written_through(store, tmp_path):
    put(store)
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (store.root / "partial" / f"{'a' * 64}.part").symlink_to(target)
    with pytest.raises(StorageFailed), store.partial("a" * 64):
        pass
    assert target.read_bytes() == b"precious"


def test_the_store_itself_may_be_a_link_to_another_disk(store, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    store.root.symlink_to(disk)
    put(store)
    assert store.find("tiny") is not None
    assert (disk / "blobs").is_dir()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"not json", b"[]", b"\xff", b"{}", b"null", b'{"model": 1}',
        msgspec.json.encode(ref_for(model="another")),
        msgspec.json.encode(ref_for(sha256="../../../etc/passwd")),
        msgspec.json.encode(ref_for(filename="../x")),
        msgspec.json.encode(ref_for(size_bytes=-1)),
    ],
)  # fmt: skip
def test_a_broken_manifest_is_reported_and_not_believed(store, text):
    put(store, model="other")
    path = store.root / "refs/tiny/Q8_0.json"
    path.parent.mkdir()
    path.write_bytes(text)
    assert [ref.model for ref in store.list()] == ["other"]
    assert store.broken() == (path,)
    assert store.find("tiny") is None


# --- failing disks -----------------------------------------------------------------------


def test_too_little_space_is_said_with_figures_before_anything_is_written(store, tmp_path):
    needed = free_bytes(tmp_path) + (1 << 40)
    with pytest.raises(NoSpace) as caught:
        require_space(store.root, needed, "tiny:Q8_0")
    assert f"{needed / (1 << 20):,.0f} MiB" in caught.value.message
    assert str(store.root) in caught.value.message
    assert not store.root.exists()


def test_the_reserve_stays_free(tmp_path):
    free = free_bytes(tmp_path)
    with pytest.raises(NoSpace):
        require_space(tmp_path, free - RESERVE_BYTES // 2, "a model")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EROFS, StorageFailed),
        (errno.EIO, StorageFailed),
        (errno.EACCES, StorageFailed if os.geteuid() == 0 else NeedsRoot),
    ],
)
def test_every_failure_of_the_disk_has_its_error(tmp_path, number, kind):
    error = storage_error(OSError(number, os.strerror(number)), "writing", tmp_path)
    assert type(error) is kind
    assert error.hint


def test_a_disk_that_fills_up_midway_is_said_and_the_download_stays(store):
    import resource
    import signal

    def write_until_full() -> None:
        with store.partial("a" * 64) as part:
            part.write(b"x" * 4096)
            part.write(b"y" * 8192)

    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old_limit[1]))
    try:
        with pytest.raises(StorageFailed, match="writing the model failed"):
            write_until_full()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    with store.partial("a" * 64) as part:
        assert part.resume() >= 4096


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_no_space(store, monkeypatch):
    put(store)
    with store.new_partial() as part:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, part._descriptor)
        os.close(full)
        with pytest.raises(NoSpace, match="ran full"):
            part.write(b"x")


def test_something_in_the_way_of_the_store_is_a_clear_error(store):
    store.root.write_text("I am a file")
    with pytest.raises(StorageFailed):
        put(store)
