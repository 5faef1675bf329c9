"""The header of a file on a server is read with few bytes, or ends in one clear error."""

from __future__ import annotations

import io
import json
import re
import time

import pytest

from edgectl.cli import cli
from edgectl.errors import DownloadFailed, IntegrityError, Usage
from edgectl.models.gguf import read_header
from edgectl.models.gguf_cursor import WINDOW_BYTES
from edgectl.models.remote import BLOCK_BYTES, KEPT_BLOCKS, MAX_FETCHED_BYTES, read_remote_header, remote_file
from edgectl.models.sources import web_source
from edgectl.models.transfer import Limits
from edgectl.output.outcome import run
from tests.fixtures.file_server import (
    FileServer,
    Handler,
    answers,
    honest,
    ignores_range,
    redirects,
    serving,
)
from tests.fixtures.gguf_files import Gguf, basic_pairs, model_bytes, strings_pair, text_pair

QUICK = Limits(connect_s=2, read_s=0.4, backoff_s=0.001, backoff_max_s=0.002, attempts=3)
VOCABULARY = [f"token number {number:>20}" for number in range(60_000)]
BIG = Gguf(
    pairs=[
        strings_pair("tokenizer.ggml.merges", VOCABULARY),
        *basic_pairs(),
        text_pair("general.license", "mit"),
    ]
).build() + bytes(24 << 20)  # a header of 2.5 MB before 24 MiB of weights


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
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("EDGED_STATE", str(tmp_path / "state"))


@pytest.fixture
def server():
    with serving(BIG) as state:
        yield state


def read(server: FileServer, path: str = "/file.gguf", limits: Limits = QUICK):
    return read_remote_header(web_source(server.url(path)), limits=limits, sleep=lambda _s: None)


def part(data: bytes, said: str, **headers: object):
    """Answer 206 with these bytes and this Content-Range."""
    return lambda handler: handler.answer(206, data, Content_Range=said, **headers)


def with_etag(etag: str):
    def behave(handler: Handler) -> None:
        data, start, end = handler.server.state.payload, handler.offset(), handler.end()
        handler.answer(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", ETag=etag)

    return behave


def breaks_off(handler: Handler) -> None:
    """Half of what was promised, then hang up."""
    data, start, end = handler.server.state.payload, handler.offset(), handler.end()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
    handler.send_header("Content-Length", str(end - start))
    handler.end_headers()
    handler.wfile.write(data[start : (start + end) // 2])
    handler.close_connection = True


def falls_silent(handler: Handler) -> None:
    """Half of what was promised, then nothing until the test is over."""
    data, start, end = handler.server.state.payload, handler.offset(), handler.end()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
    handler.send_header("Content-Length", str(end - start))
    handler.end_headers()
    handler.wfile.write(data[start : (start + end) // 2])
    handler.wfile.flush()
    handler.server.state.finished.wait(30)
    handler.close_connection = True


def drips(handler: Handler) -> None:
    """A byte now and then: never silent, never done."""
    data, start, end = handler.server.state.payload, handler.offset(), handler.end()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
    handler.send_header("Content-Length", str(end - start))
    handler.end_headers()
    for byte in data[start:end]:
        handler.wfile.write(bytes([byte]))
        if handler.server.state.finished.wait(0.02):
            break
    handler.close_connection = True


def test_it_says_what_the_file_itself_says(server):
    assert read(server).header == read_header(io.BytesIO(BIG))


def test_little_more_than_the_header_is_fetched_and_nothing_twice(server):
    found = read(server)

    assert found.header.data_offset_bytes > 2_000_000
    assert found.fetched_bytes - found.header.data_offset_bytes <= BLOCK_BYTES + WINDOW_BYTES
    assert found.requests == len(server.requests) == len(set(server.ranges()))
    assert all(re.fullmatch(r"bytes=\d+-\d+", said) for said in server.ranges())


def test_a_file_smaller_than_a_block_is_fetched_once(server):
    server.payload = model_bytes()
    found = read(server)
    assert (found.requests, found.fetched_bytes) == (1, len(model_bytes()))


def test_it_reads_and_seeks_like_a_file_and_keeps_few_blocks(server):
    server.payload = bytes(range(251)) * (8 * BLOCK_BYTES // 251)
    with remote_file(web_source(server.url()), limits=QUICK) as remote:
        file = io.BufferedReader(remote)
        assert file.seek(0, io.SEEK_END) == len(server.payload)
        assert file.read(5) == b""
        for place in (0, BLOCK_BYTES - 3, 5 * BLOCK_BYTES + 7, 3 * BLOCK_BYTES, len(server.payload) - 9, 17):
            file.seek(place)
            assert file.read(4000) == server.payload[place : place + 4000]
        assert len(remote._blocks) <= KEPT_BLOCKS


def test_an_interrupted_answer_is_asked_for_again(server):
    server.script = [honest, breaks_off, answers(503), honest]
    assert read(server).header.licence == "mit"


UNHELPFUL = {
    "ignores ranges": ([ignores_range], "no Range requests"),
    "ignores later ranges": ([honest, ignores_range], "no Range requests"),
    "not there": ([answers(404)], "404"),
    "not for us": ([answers(401)], "401"),
    "always busy": ([answers(503)] * 3, "503 .*3 times"),
    "always breaks off": ([breaks_off] * 3, "3 times"),
    "falls silent": ([falls_silent] * 3, "did not send anything in time .3 times"),
    "encoded": ([part(BIG[:9], f"bytes 0-8/{len(BIG)}", Content_Encoding="gzip")], "encoded .gzip"),
    "changed ETag": ([with_etag('"one"'), with_etag('"two"')], "changed while"),
    "ETag gone": ([with_etag('"one"'), honest], "changed while"),
    "changed size": (
        [
            honest,
            part(BIG[BLOCK_BYTES : 2 * BLOCK_BYTES], f"bytes {BLOCK_BYTES}-{2 * BLOCK_BYTES - 1}/9999999"),
        ],
        "changed while",
    ),
    "nothing beyond": ([honest, answers(416)] + [answers(416)] * 2, "no bytes beyond"),
    "redirects in a circle": ([redirects("/again")] * 20, "redirects more than 8 times"),
    "redirects to a file": ([redirects("file:///etc/passwd")], "no web address"),
}


@pytest.mark.parametrize("case", UNHELPFUL)
def test_a_server_that_does_not_deliver_ends_in_a_failed_download(server, case):
    script, what = UNHELPFUL[case]
    server.script = list(script)
    with pytest.raises(DownloadFailed, match=what) as caught:
        read(server)
    assert "127.0.0.1" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("behaviour", "what"),
    [
        (part(BIG[:100], ""), "does not say where"),
        (part(BIG[:100], "bytes 0-99/*"), "does not say where"),
        (part(BIG[:100], "bytes 7-106/26000000"), "when asked for bytes 0-"),
        (part(BIG[:100], "bytes 0-99/26000000"), "when asked for bytes 0-"),
        (part(BIG[:100], f"bytes 0-{BLOCK_BYTES - 1}/100"), "when asked for bytes 0-"),
        (part(BIG[:100], f"bytes 0-{BLOCK_BYTES - 1}/{10**17}"), "more than any model has"),
        (part(BIG[:200], "bytes 0-99/100"), "sends more than the 100 bytes"),
        (answers(416, Content_Range="bytes */0"), "is empty"),
    ],
)
def test_a_server_that_contradicts_itself_is_not_believed(server, behaviour, what):
    server.default = behaviour
    with pytest.raises(IntegrityError, match=what):
        read(server)


def test_a_server_that_drips_does_not_keep_anybody(server):
    server.default = drips
    slow = Limits(connect_s=2, read_s=5, stall_window_s=0.2, stall_bytes=1 << 16, backoff_s=0.001, attempts=2)
    started_s = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"only .* bytes came in .*2 times"):
        read(server, limits=slow)
    assert time.monotonic() - started_s < 5


def test_a_header_without_end_is_given_up_after_a_bounded_number_of_bytes(server):
    """Strings and more strings: every block is valid so far, and the file claims 200 GiB."""
    item = (0xF000).to_bytes(8, "little") + bytes(0xF000)
    head = Gguf(tensors=[], data=b"", pairs=[strings_pair("x", [])]).build()
    head = head[: head.index(b"x") + 9] + (1 << 22).to_bytes(8, "little")

    def endless(handler: Handler) -> None:
        start, end = handler.offset(), handler.offset() + BLOCK_BYTES
        skipped = (start - len(head)) % len(item) if start else 0
        stream = (head if not start else b"") + item[skipped:] + item * (BLOCK_BYTES // len(item) + 1)
        handler.answer(206, stream[:BLOCK_BYTES], Content_Range=f"bytes {start}-{end - 1}/{200 << 30}")

    server.default = endless
    with pytest.raises(IntegrityError, match="longer than 64 MiB"):
        read(server)
    assert len(server.requests) == MAX_FETCHED_BYTES // BLOCK_BYTES + 1


def test_a_web_page_is_no_model(server):
    server.payload = b"<!DOCTYPE html><html></html>"
    with pytest.raises(IntegrityError, match="does not begin with GGUF"):
        read(server)


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url("", host="localhost"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.payload = model_bytes()
    server.script = [redirects(server.url("/cdn"))]

    read_remote_header(web_source(server.url("/m.gguf", host="localhost")), limits=QUICK)

    hub, cdn = (headers for _, headers in server.requests)
    assert hub["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in cdn
    assert hub["Range"] == cdn["Range"]


def test_secrets_of_the_address_are_not_shown(server):
    server.default = answers(404)
    with pytest.raises(DownloadFailed) as caught:
        read(server, "/m.gguf?signature=secret")
    assert "secret" not in caught.value.message


def test_what_is_no_address_is_refused():
    with pytest.raises(Usage, match="not a web address"):
        web_source("ftp://example.org/m.gguf")


def test_inspect_describes_a_file_on_a_server(server, capsys):
    assert run(cli, ["models", "inspect", server.url(), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    assert (said["architecture"], said["quantization"], said["licence"]) == ("llama", "Q8_0", "mit")
    assert said["source"] == server.url()
    assert said["size_bytes"] == len(BIG)
    assert said["fetched_bytes"] < 4 << 20


def test_inspect_of_a_hostile_server_file_ends_with_9_and_of_a_missing_one_with_75(server, capsys):
    server.payload = Gguf(tensor_count=2**60).build()
    assert run(cli, ["models", "inspect", server.url()]) == 9
    assert "tensors, more than" in capsys.readouterr().err

    server.default = answers(404)
    assert run(cli, ["models", "inspect", server.url()]) == 75
    assert "404" in capsys.readouterr().err
