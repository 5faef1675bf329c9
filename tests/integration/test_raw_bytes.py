"""Whatever bytes arrive, the real daemon answers with one clear error or hangs up, and serves on."""

from __future__ import annotations

import json
import select
import socket

import pytest

from edged.transports.http.errors import STATUS
from tests.kit.daemon import running_daemon
from tests.kit.http_serving import every_route
from tests.kit.service import fake_model, fake_tree

DEADLINE_S = 15.0
POSTS = [path for method, path in every_route() if method == "POST"]
DEEP = 50_000

# Bodies that are wrong for every route: what is wrong → the bytes.
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n\t",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "a string": b'"messages"',
    "NUL bytes": b"\x00" * 100,
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "invalid UTF-8 in an unknown field": b'{"zzz": "\xc3\x28"}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "lone surrogates": b'{"model": "\\ud800"}',
    "deep lists": b"[" * DEEP,
    "deep lists in a field": b'{"messages": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep lists in a label": b'{"user": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "an unknown field": b'{"zzz": 1}',
    "a field twice": b'{"model": "x", "model": 7}',
    "a negative number of tokens": b'{"prompt": "x", "max_tokens": -1, "messages": -1, "input": -1}',
    "a number without end": b'{"seed": ' + b"9" * 5000 + b"}",
    "an infinite number": b'{"temperature": 1e999}',
    "not a number": b'{"temperature": NaN}',
    "a comment": b'{"prompt": "x" /* y */}',
    "a wrong type in every field": json.dumps(
        {key: {"a": 1} for key in ("messages", "prompt", "input", "choices", "model", "stream", "stop")}
    ).encode(),
    "a gzip file": b"\x1f\x8b\x08\x00" + b"\x00" * 60,
}  # fmt: skip

HOST = b"Host: localhost\r\n"
END = HOST + b"Connection: close\r\n\r\n"
JSON = b"Content-Type: application/json\r\n"
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(5000))
# Bytes that are no request, or none that is meant well.
BYTES: dict[str, bytes] = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
    "an MQTT connect": b"\x10\x10\x00\x04MQTT\x04\x02\x00<\x00\x04edge",
    "no version": b"GET /\r\n\r\n",
    "line ends alone": b"\r\n" * 10_000,
    "NUL in a header": b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n" + HOST + b": x\r\n\r\n",
    "a header of a megabyte": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n",
    "a target of a megabyte": b"GET /" + b"y" * (1 << 20) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "five thousand headers": b"GET / HTTP/1.1\r\n" + HOST + MANY + b"\r\n",
    "a length of a gibibyte": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Content-Length: 1073741824\r\n\r\n{",
    "a length beyond all integers": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{",
    "a negative length": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "an unknown coding": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a chunk of a tebibyte": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n{",
    "a chunk that is no number": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "a chunk with an endless extension": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * (1 << 20) + b"\r\n{}\r\n0\r\n\r\n",
    "trailers without end": b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + MANY * 4 + b"\r\n",
    "a path that climbs": b"GET /../../etc/passwd HTTP/1.1\r\n" + END,
    "a page file that climbs": b"GET /page/..%2f..%2fauth.py HTTP/1.1\r\n" + END,
    "an encoded NUL": b"GET /v1/models/%00 HTTP/1.1\r\n" + END,
    "bytes that are no text in a path": b"GET /v1/models/%ff%fe HTTP/1.1\r\n" + END,
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\n" + END,
    "TRACE": b"TRACE / HTTP/1.1\r\n" + END,
}  # fmt: skip


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    with running_daemon(fake_tree(fake_model(folder)), folder) as daemon:
        yield daemon


@pytest.fixture
def unharmed(box):
    """The same processes before and after, no defect in the log, and the next client is served."""
    before, said = box.status(), len(box.log)
    yield box
    after = box.status()
    assert (after["pid"], after["worker_pid"]) == (before["pid"], before["worker_pid"])
    assert after["counters"]["engine_restarts"] == before["counters"]["engine_restarts"]
    assert after["running"] == after["queue"] == 0
    log = box.log[said:]
    assert "Traceback" not in log
    assert "level=ERROR" not in log
    assert box.chat("hello", max_tokens=4)[0] == 200


def raw(box, data: bytes) -> bytes:
    """What the daemon sends until it closes."""
    with socket.create_connection(("127.0.0.1", box.port), timeout=DEADLINE_S) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has hung up already
        said = b""
        try:
            while portion := sock.recv(65536):
                said += portion
        except ConnectionError:
            pass
    return said


@pytest.mark.parametrize("wrong", BODIES)
def test_every_bad_body_is_one_clear_error_on_every_route(unharmed, wrong):
    body = BODIES[wrong]
    for path in POSTS:
        head = b"POST %s HTTP/1.1\r\n" % path.encode() + HOST + JSON + b"Content-Length: %d\r\n" % len(body)
        # Half a close would count as a hang-up, so the daemon is asked to close instead.
        with socket.create_connection(("127.0.0.1", unharmed.port), timeout=DEADLINE_S) as sock:
            sock.sendall(head + b"Connection: close\r\n\r\n" + body)
            answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
        status = int(answer.split(b" ", 2)[1])
        assert status in {400, 404, 413}, (path, answer[:300])
        told = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        message = told if isinstance(told, str) else told["message"]
        assert 5 < len(message) < 300
        if isinstance(told, dict):
            assert STATUS[told["code"]][0] == status


@pytest.mark.parametrize("what", BYTES)
def test_bytes_that_are_no_good_request_end_in_an_error_or_a_hang_up(unharmed, what):
    answer = raw(unharmed, BYTES[what])
    status = answer.split(b" ", 2)[1:2]
    assert not status or 400 <= int(status[0]) < 500 or status == [b"501"], answer[:300]
    assert b"Traceback" not in answer
    assert b"root:" not in answer


@pytest.mark.parametrize(
    ("what", "size"),
    [
        ("a header of a megabyte", 4096),
        ("a target of a megabyte", 4096),
        ("five thousand headers", 4096),
        ("five thousand headers", 1 << 17),  # all at once, which h11 takes
    ],
)
def test_a_head_that_is_too_large_is_told_to_be(unharmed, what, size):
    data = BYTES[what]
    with socket.create_connection(("127.0.0.1", unharmed.port), timeout=DEADLINE_S) as sock:
        for start in range(0, len(data), size):
            sock.sendall(data[start : start + size])
            if select.select([sock], [], [], 0.01)[0]:  # going on would reset the connection
                break
        answer = b""
        while b'"headers_too_large"' not in answer and (portion := sock.recv(4096)):
            answer += portion
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:200]
    assert b'"headers_too_large"' in answer
