"""Downloads end in the right bytes or in one clear error, whatever the server does."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from edgectl.errors import DownloadFailed, IntegrityError, NoSpace, Usage
from edgectl.models.fetch import Limits, Listener, pull
from edgectl.models.gguf import read_model
from edgectl.models.refs import Ref
from edgectl.models.sources import Download, Source, hub_source, hub_token, public_address, web_source
from edgectl.models.storage import free_bytes
from edgectl.models.store import Store
from edged.api.errors import Busy
from tests.fixtures.file_server import (
    FileServer,
    answers,
    cuts_after,
    drips,
    honest,
    ignores_range,
    never_ends,
    redirects,
    sends,
    serving,
    stalls_after,
    without_length,
)
from tests.fixtures.gguf_files import model_bytes

if TYPE_CHECKING:
    from pathlib import Path

PAYLOAD = model_bytes(extra=os.urandom(3 << 20))
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()
QUICK = Limits(connect_s=2, read_s=0.4, backoff_s=0.001, backoff_max_s=0.002, attempts=3)


def describe(path: Path, sha256: str, size_bytes: int) -> Ref:
    read_model(path)
    return Ref(
        model="tiny", quant="Q8_0", filename="tiny.gguf", sha256=sha256, size_bytes=size_bytes, source="test",
        added_at="2026-01-02T03:04:05Z",
    )  # fmt: skip


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def server():
    with serving(PAYLOAD) as state:
        yield state


@pytest.fixture(autouse=True)
def _no_hub_account(monkeypatch, tmp_path):
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_ENDPOINT",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def wanted(*urls: str, **changes: object) -> Download:
    sources = tuple(Source(url=url, label=f"source {number}") for number, url in enumerate(urls, 1))
    return Download(
        **{"label": "tiny:Q8_0", "sha256": DIGEST, "size_bytes": len(PAYLOAD), "sources": sources, **changes}
    )


def fetch(store: Store, download: Download, **options: object) -> Ref:
    return pull(store, download, describe, **{"limits": QUICK, **options})


def partial_size(store: Store) -> int:
    return sum(path.stat().st_size for path in store.root.glob("partial/*"))


def leave_partial(store: Store, data: bytes) -> None:
    with store.partial(DIGEST) as part:
        part.write(data)


def is_stored(store: Store) -> bool:
    ref = store.find("tiny")
    return ref is not None and store.path_of(ref).read_bytes() == PAYLOAD


def test_a_file_is_fetched_verified_and_published(store, server):
    seen = []
    listener = Listener(progress=lambda done, total: seen.append((done, total)))

    ref = fetch(store, wanted(server.url()), listener=listener)

    assert is_stored(store)
    assert ref.sha256 == DIGEST
    assert seen[-1] == (len(PAYLOAD), len(PAYLOAD))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert "Authorization" not in server.requests[0][1]
    assert partial_size(store) == 0


def test_a_download_goes_on_where_an_earlier_run_stopped(store, server):
    leave_partial(store, PAYLOAD[:1_000_000])
    said = []

    fetch(store, wanted(server.url()), listener=Listener(say=said.append))

    assert is_stored(store)
    assert server.ranges() == ["bytes=1000000-"]
    assert "going on after" in said[0]


def test_a_complete_partial_needs_no_request(store, server):
    leave_partial(store, PAYLOAD)
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert server.requests == []


def test_a_truncated_body_is_resumed(store, server):
    server.script = [cuts_after(1_200_000), cuts_after(1_200_000)]
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert server.ranges() == [None, "bytes=1200000-", "bytes=2400000-"]


def test_a_body_without_a_length_that_ends_early_is_resumed(store, server):
    server.script = [without_length(PAYLOAD[:1_200_000])]
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert server.ranges() == [None, "bytes=1200000-"]


def test_progress_begins_the_count_of_attempts_anew(store, server):
    server.default = cuts_after(QUICK.progress_bytes // 4)
    limits = Limits(
        backoff_s=0.001, backoff_max_s=0.002, attempts=2, progress_bytes=QUICK.progress_bytes // 8
    )
    fetch(store, wanted(server.url()), limits=limits)
    assert is_stored(store)
    assert len(server.requests) > 10


def test_a_server_that_ignores_range_is_read_from_the_start(store, server):
    leave_partial(store, PAYLOAD[:500_000])
    server.default = ignores_range
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "lie",
    ["bytes 0-99/100", "bytes 499999-600000/700000", "", "bytes 500000-1/2", "bytes 500000-900000/3",
     "garbage", "bytes */100", "bytes 500000-" + "9" * 40 + "/*"],
)  # fmt: skip
def test_a_lie_in_content_range_leads_to_the_whole_file(store, server, lie):
    leave_partial(store, PAYLOAD[:500_000])
    server.script = [sends(b"x" * 100, 206, Content_Range=lie)]
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert server.ranges() == ["bytes=500000-", None]


def test_a_partial_answer_nobody_asked_for_is_refused(store, server):
    server.default = sends(b"x" * 100, 206, Content_Range="bytes 0-99/100")
    with pytest.raises(DownloadFailed, match="206"):
        fetch(store, wanted(server.url()))


def test_a_refused_range_leads_to_the_whole_file(store, server):
    leave_partial(store, PAYLOAD[:500_000])
    server.script = [answers(416)]
    fetch(store, wanted(server.url()))
    assert is_stored(store)


def test_a_partial_longer_than_the_file_starts_anew(store, server):
    leave_partial(store, PAYLOAD + b"more")
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert server.ranges() == [None]


def test_a_damaged_partial_costs_one_more_download_and_not_the_file(store, server):
    leave_partial(store, b"\x00" * 700_000)
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert server.ranges() == ["bytes=700000-", None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(store, server, status):
    server.script = [redirects("/elsewhere", status), redirects(server.url("/there"), status)]
    fetch(store, wanted(server.url()))
    assert is_stored(store)
    assert [path for path, _ in server.requests] == ["/file.gguf", "/elsewhere", "/there"]


def test_redirects_are_bounded(store, server):
    server.default = redirects("/file.gguf")
    with pytest.raises(DownloadFailed, match="redirects more than 8 times"):
        fetch(store, wanted(server.url()))
    assert len(server.requests) == 9


@pytest.mark.parametrize("target", ["", "file:///etc/passwd", "ftp://host/x", "http://[bad", "javascript:1"])
def test_a_redirect_to_no_web_address_is_refused(store, server, target):
    server.default = redirects(target)
    with pytest.raises(DownloadFailed, match=r"redirects to something|cannot be used"):
        fetch(store, wanted(server.url()))


def test_a_redirect_from_https_to_http_is_refused():
    from edgectl.models.transfer import Refused, _next_url

    with pytest.raises(Refused, match="from https to http"):
        _next_url("https://host/file", "http://host/file")
    assert _next_url("http://host/file", "https://host/file") == "https://host/file"


def test_a_silent_server_is_given_up(store, server):
    server.default = stalls_after(100_000)
    began = time.monotonic()
    with pytest.raises(DownloadFailed, match="did not send anything in time"):
        fetch(store, wanted(server.url()))
    assert time.monotonic() - began < 10
    assert partial_size(store) >= 100_000  # kept for the next run


def test_a_stalled_download_goes_on_with_a_new_connection(store, server):
    server.script = [stalls_after(100_000)]
    fetch(store, wanted(server.url()))
    assert is_stored(store)


def test_a_dripping_server_is_given_up(store, server):
    server.default = drips
    limits = Limits(read_s=5, stall_window_s=0.2, backoff_s=0.001, attempts=2)
    with pytest.raises(DownloadFailed, match=r"only \d+ bytes came"):
        fetch(store, wanted(server.url()), limits=limits)


def test_another_size_is_refused_before_the_body_and_keeps_what_is_here(store, server):
    leave_partial(store, PAYLOAD[:500_000])
    server.default = sends(b"<html>please log in to this network</html>")
    with pytest.raises(IntegrityError, match="it offers 42 bytes"):
        fetch(store, wanted(server.url()))
    assert partial_size(store) == 500_000
    assert store.find("tiny") is None


def test_a_body_that_is_too_long_is_cut_off(store, server):
    server.default = never_ends
    with pytest.raises(IntegrityError, match="sends more than"):
        fetch(store, wanted(server.url()))
    assert partial_size(store) == 0
    assert store.find("tiny") is None


def test_wrong_bytes_are_deleted_and_never_loadable(store, server):
    server.default = sends(bytes(len(PAYLOAD)))
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        fetch(store, wanted(server.url()))
    assert DIGEST in caught.value.message
    assert partial_size(store) == 0
    assert store.list() == ()
    assert len(server.requests) == 1


def test_the_next_source_is_asked_after_a_wrong_one(store, server):
    server.script = [
        sends(bytes(len(PAYLOAD))),
        answers(404),
        answers(403),
        sends(gzip.compress(b"x"), Content_Encoding="gzip"),
    ]
    said = []
    download = wanted(*(server.url(f"/{n}") for n in range(5)))
    fetch(store, download, listener=Listener(say=said.append))
    assert is_stored(store)
    assert len(server.requests) == 5
    assert any("404" in sentence for sentence in said)


def test_a_mirror_goes_on_where_the_first_source_broke_off(store, server):
    server.script = [cuts_after(1_000_000), answers(404)]
    fetch(store, wanted(server.url("/first"), server.url("/second")))
    assert is_stored(store)
    assert server.ranges() == [None, "bytes=1000000-", "bytes=1000000-"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(store, server, status):
    server.script = [answers(status), answers(status)]
    fetch(store, wanted(server.url()))
    assert is_stored(store)


def test_the_server_may_say_how_long_to_wait_up_to_a_limit(store, server):
    server.script = [answers(503, Retry_After="7"), answers(503, Retry_After="99999"), honest]
    pauses = []
    fetch(store, wanted(server.url()), sleep=pauses.append)
    assert pauses == [7.0, 60.0]


def test_retries_back_off_and_end(store, server):
    server.default = answers(503)
    pauses = []
    limits = Limits(attempts=6, backoff_s=1, backoff_max_s=8)
    with pytest.raises(DownloadFailed, match=r"503.*\(6 times\)"):
        fetch(store, wanted(server.url()), limits=limits, sleep=pauses.append)
    assert len(pauses) == 5
    assert all(full / 2 <= pause <= full for pause, full in zip(pauses, (1, 2, 4, 8, 8), strict=True))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_account_says_how_to_log_in(store, server, status):
    server.default = answers(status)
    with pytest.raises(DownloadFailed) as caught:
        fetch(store, wanted(server.url()))
    assert "hf auth login" in caught.value.hint


def test_no_network_says_so_and_names_the_way_by_usb_stick(store):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        with pytest.raises(DownloadFailed) as caught:
            fetch(store, wanted(url, "http://nowhere.invalid/file"))
    assert caught.value.message.count("\n") == 2
    assert "edgectl models import" in caught.value.hint
    assert caught.value.retryable


def test_what_is_not_http_is_a_failed_download(store):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def speak() -> None:
            for _ in range(QUICK.attempts):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(DownloadFailed):
            fetch(store, wanted(f"http://127.0.0.1:{listener.getsockname()[1]}/file"))
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_too_little_space_is_said_before_the_first_byte(store, server, tmp_path):
    huge = free_bytes(tmp_path) + (1 << 40)
    with pytest.raises(NoSpace):
        fetch(store, wanted(server.url(), size_bytes=huge))
    assert server.requests == []


def test_too_little_space_for_a_size_the_server_tells_is_said_too(store, server, tmp_path):
    server.default = sends(b"", Content_Length=min(free_bytes(tmp_path), 255 << 30))
    with pytest.raises(NoSpace):
        fetch(store, wanted(server.url(), size_bytes=None))
    assert partial_size(store) == 0


def test_a_file_of_unknown_size_is_held_to_its_hash(store, server):
    server.default = without_length(PAYLOAD)
    fetch(store, wanted(server.url(), size_bytes=None))
    assert is_stored(store)


def test_a_file_of_unknown_hash_is_never_pieced_together(store, server):
    server.script = [cuts_after(1_000_000)]
    ref = fetch(store, wanted(server.url(), sha256=None, size_bytes=None))
    assert ref.sha256 == DIGEST
    assert server.ranges() == [None, None]


def test_a_hostile_file_with_the_right_hash_is_not_loadable(store):
    evil = b"GGUF" + b"\xff" * 5000
    with serving(evil) as server:
        download = wanted(server.url(), sha256=hashlib.sha256(evil).hexdigest(), size_bytes=len(evil))
        with pytest.raises(IntegrityError, match="not a valid GGUF"):
            fetch(store, download)
    assert store.list() == ()
    assert partial_size(store) == 0
    assert not list(store.root.glob("blobs/*"))


def test_a_second_download_of_the_same_file_waits_its_turn(store, server):
    server.default = stalls_after(1000)
    outcome = []

    def first() -> None:
        try:
            fetch(store, wanted(server.url()), limits=Limits(read_s=20, attempts=1))
        except DownloadFailed as error:
            outcome.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    wait_until(lambda: partial_size(store) == 1000)
    with pytest.raises(Busy):
        fetch(store, wanted(server.url()))
    server.finished.set()
    thread.join(timeout=15)
    assert len(outcome) == 1


def wait_until(condition, deadline_s: float = 15) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


PULL_PROGRAM = """
import sys
from edgectl.__main__ import main
main(["models", "pull", sys.argv[1], "--sha256", sys.argv[2], "--name", "tiny"])
"""


def test_ctrl_c_keeps_what_arrived_and_the_next_run_goes_on(store, server, tmp_path):
    server.default = stalls_after(2_000_000)
    environment = {**os.environ, "EDGED_STATE": str(tmp_path)}
    command = [sys.executable, "-c", PULL_PROGRAM, server.url(), DIGEST]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: partial_size(store) == 2_000_000 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "kept" in errors
    assert "Traceback" not in errors
    assert partial_size(store) == 2_000_000

    server.default = honest
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert server.ranges()[-1] == "bytes=2000000-"
    assert is_stored(store)


# --- the Hub's token ---------------------------------------------------------------------


def hub(server: FileServer, monkeypatch) -> Source:
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return hub_source("owner/repo", "abc123", "file.gguf")


def test_the_hub_is_asked_with_the_token(store, server, monkeypatch):
    source = hub(server, monkeypatch)
    fetch(store, wanted(sources=(source,)))
    assert is_stored(store)
    path, headers = server.requests[0]
    assert path == "/owner/repo/resolve/abc123/file.gguf"
    assert headers["Authorization"] == "Bearer hf_secret"


def test_the_token_does_not_follow_a_redirect_to_another_host(store, server, monkeypatch):
    source = hub(server, monkeypatch)
    with serving(PAYLOAD) as storage:
        server.default = redirects(storage.url("/object"))
        fetch(store, wanted(sources=(source,)))
        assert is_stored(store)
        assert "Authorization" not in storage.requests[0][1]


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/x", "https://huggingface.co.evil.example/x", "https://huggingface.co:8443/x",
        "https://evil.example/huggingface.co", "https://user@evil.example/", "https://modelscope.cn/x",
    ],
)  # fmt: skip
def test_the_token_goes_to_no_other_address(monkeypatch, url):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub_token(url) is None
    assert hub_token("https://huggingface.co/owner/repo") == "hf_secret"


def test_the_token_is_not_sent_in_the_clear(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    assert hub_token("http://mirror.example/x") is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///x",
        "ftp://host/x",
        "https://",
        "https:///x",
        "http://[::1",
        "http://a b/",
        "model",
        "http://h:0/",
    ],
)
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(Usage):
        web_source(url)


def test_secrets_of_an_address_are_not_shown():
    shown = public_address("https://user:pass@host:8443/a/b.gguf?token=hush#x")
    assert shown == "https://host:8443/a/b.gguf"
    assert public_address("http://[::1]:80/x") == "http://[::1]:80/x"
