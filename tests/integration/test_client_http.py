"""The client against a real socket server that says, byte for byte, what each test is about."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import threading

import pytest

from edgectl.client import ChatSession, EdgeClient, Unauthorized, Unhealthy, Unreachable
from edged.api.errors import BadRequest, Busy, EngineLost, Expired, Loading

DEADLINE_S = 10.0


class Server:
    """Hands each connection's first request to ``play``; what plays on after the test is cut off."""

    def __init__(self, play):
        self.requests: list[tuple[str, dict, dict]] = []
        self.gone = threading.Event()  # a client hung up
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        self._listener.close()
        assert not self._thread.is_alive()

    def wait_gone(self, connection):
        """Until the client hangs up."""
        connection.settimeout(DEADLINE_S)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        self.gone.set()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            with connection, contextlib.suppress(ConnectionError, BrokenPipeError):
                self.requests.append(self._read(connection))
                self._play(self, connection)

    def _read(self, connection):
        with connection.makefile("rb") as file:
            line = file.readline().decode()
            headers = {}
            while (header := file.readline().decode().strip()) != "":
                name, _, value = header.partition(": ")
                headers[name.lower()] = value
            body = file.read(int(headers.get("content-length", 0)))
            return line.split()[1], headers, json.loads(body) if body else {}


def answer(status, body, headers=""):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    # The server serves one request a connection and says so; else the client may reuse one that is closing.
    kind = "content-type: application/json\r\nconnection: close"
    head = f"HTTP/1.1 {status} X\r\n{kind}\r\ncontent-length: {len(raw)}\r\n{headers}\r\n"

    def play(_server, connection):
        connection.sendall(head.encode() + raw)

    return play


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def piece(text, finish=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


END = (
    piece("", "stop")
    + b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,'
    + b'"prompt_tokens_details":{"cached_tokens":1}}}\n\ndata: [DONE]\n\n'
)


def streams(*portions, then=None):
    def play(server, connection):
        connection.sendall(STREAM_HEAD)
        for portion in portions:
            connection.sendall(portion)
        if then:
            then(server, connection)

    return play


def reset(_server, connection):
    """A crash: the connection ends with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silence(server, connection):
    server.wait_gone(connection)


@pytest.fixture
def ask():
    """``ask(play, **options)`` → server and client, both closed at the end; no thread may stay."""
    before = threading.active_count()
    with contextlib.ExitStack() as stack:

        def start(play, **options):
            server = stack.enter_context(Server(play))
            return server, stack.enter_context(EdgeClient(server.url, **{"timeout_s": 5, **options}))

        yield start
    assert threading.active_count() == before


def test_a_stream_is_given_piece_by_piece_and_the_answer_after_it(ask):
    _, client = ask(streams(b": waiting\n\n", piece("h\u00e9"), piece("llo"), END))
    with client.stream("x") as stream:
        assert list(stream) == ["h\u00e9", "llo"]
        assert stream.answer.text == "h\u00e9llo"
        assert stream.answer.usage.cached_tokens == 1


def test_the_key_is_sent_as_a_bearer_token_and_the_body_says_what_was_asked(ask):
    server, client = ask(streams(piece("x"), END), api_key="k" * 20)
    client.stream("hi", system="s", max_tokens=3, temperature=0, stop="end").read()
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer " + "k" * 20
    assert body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (3, 0, ["end"])
    assert "top_p" not in body


def test_events_split_anywhere_arrive_whole(ask):
    raw = piece("h\u00e9\U0001f600") + END
    _, client = ask(streams(*(raw[n : n + 1] for n in range(len(raw)))))
    assert client.stream("x").read().text == "h\u00e9\U0001f600"


def test_the_answer_of_an_unread_stream_is_an_error(ask):
    _, client = ask(streams(piece("x"), END))
    with client.stream("x") as stream, pytest.raises(RuntimeError):
        _ = stream.answer


def test_leaving_a_stream_hangs_up(ask):
    server, client = ask(streams(piece("first"), then=silence))
    with client.stream("x") as stream:
        assert next(stream) == "first"
    assert server.gone.wait(DEADLINE_S)


def test_a_dropped_stream_hangs_up(ask):
    server, client = ask(streams(piece("first"), then=silence))
    for _piece in client.stream("x"):
        break
    assert server.gone.wait(DEADLINE_S)


@pytest.mark.parametrize("stream", [True, False])
def test_ctrl_c_during_the_wait_hangs_up(ask, stream):
    def interrupt(server, connection):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        server.wait_gone(connection)

    server, client = ask(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.stream("x").read() if stream else client.generate("x")
    assert server.gone.wait(DEADLINE_S)


@pytest.mark.parametrize("end", [reset, None])
def test_a_connection_that_breaks_mid_stream_is_no_answer(ask, end):
    _, client = ask(streams(piece("half an"), then=end))
    stream = client.stream("x")
    assert next(stream) == "half an"
    with pytest.raises(Unreachable, match="broke off"):
        stream.read()
    with pytest.raises(RuntimeError):
        _ = stream.answer


def test_a_failure_inside_the_stream_is_raised_typed(ask):
    failed = (
        b'data: {"error":{"message":"it died","code":"engine_lost","retry_after_s":2.0}}\n\ndata: [DONE]\n\n'
    )
    _, client = ask(streams(piece("x"), failed))
    with pytest.raises(EngineLost, match="it died") as caught:
        client.stream("x").read()
    assert caught.value.retry_after_s == 2.0


@pytest.mark.parametrize(
    "data", [b"data: {oops\n\n", b"data: []\n\n", b'data: {"choices": 3}\n\n', b"data: \xff\n\n"]
)
def test_malformed_events_are_unhealthy(ask, data):
    _, client = ask(streams(piece("x"), b"data: " + data + b"\n\n", END))
    with pytest.raises(Unhealthy):
        client.stream("x").read()


def test_a_refusal_says_when_to_come_back(ask):
    body = {"error": {"message": "full", "type": "rate_limit_error", "code": "busy", "param": None}}
    _, client = ask(answer(429, body, "retry-after: 7\r\n"))
    with pytest.raises(Busy, match="full") as caught:
        client.generate("x")
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "unauthorized", Unauthorized), (503, "loading", Loading), (400, "new", BadRequest)],
)
def test_refusals_are_typed_by_code_and_unknown_ones_by_status(ask, status, code, kind):
    _, client = ask(answer(status, {"error": {"message": "no", "code": code}}))
    with pytest.raises(kind):
        client.stream("x").read()


def test_another_web_server_is_recognised(ask):
    _, client = ask(answer(404, b"<html>not here</html>"))
    with pytest.raises(Unhealthy, match="not how edged"):
        client.status()


@pytest.mark.parametrize("body", [b"{}", b"not json", b'{"choices": []}'])
def test_an_answer_that_makes_no_sense_is_unhealthy(ask, body):
    _, client = ask(answer(200, body))
    with pytest.raises(Unhealthy):
        client.generate("x")
    with pytest.raises(Unhealthy):
        client.status()


def test_silence_expires_and_hangs_up(ask):
    server, client = ask(silence)
    with pytest.raises(Expired, match=r"0\.2 s"):
        client.generate("x", timeout_s=0.2)
    assert server.gone.wait(DEADLINE_S)


def test_comments_are_no_news_and_the_stream_expires(ask):
    def mutter(server, connection):
        connection.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(b": waiting\n\n")
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1) == b"":
                        break
        server.gone.set()

    server, client = ask(streams(piece("x"), then=mutter))
    with pytest.raises(Expired):
        client.stream("x", timeout_s=0.4).read()
    assert server.gone.wait(DEADLINE_S)


def test_nobody_listens_is_unreachable_with_what_to_do():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with (
            EdgeClient(f"http://127.0.0.1:{bound.getsockname()[1]}") as client,
            pytest.raises(Unreachable) as caught,
        ):
            client.generate("x")
    assert "refused" in caught.value.message
    assert "edgectl status" in caught.value.hint


def test_a_name_that_does_not_resolve_is_unreachable():
    with EdgeClient("http://no-such-host.invalid") as client, pytest.raises(Unreachable):
        client.status()


def test_a_failed_turn_leaves_the_conversation_as_it_was(ask):
    def play(server, connection):
        turns = {1: piece("one") + END, 2: piece("half"), 3: piece("two") + END}
        streams(turns[len(server.requests)])(server, connection)

    server, client = ask(play)
    chat = ChatSession(client, "be kind")
    assert chat.stream("a").read().text == "one"
    with pytest.raises(Unreachable):
        chat.stream("b").read()
    assert [message.content for message in chat.messages] == ["be kind", "a", "one"]
    chat.stream("c").read()
    assert [message["content"] for message in server.requests[2][2]["messages"]] == [
        "be kind",
        "a",
        "one",
        "c",
    ]
