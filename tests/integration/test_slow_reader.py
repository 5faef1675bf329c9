"""One slot, and a client that stops reading: the next one has the slot, and the first loses nothing."""

from __future__ import annotations

import json
import socket

from tests.kit.daemon import running_daemon, wait_until
from tests.kit.service import fake_model, fake_tree, long_text

# With the alternatives of each token some 30 MB: more than the buffers of a connection and the daemon take.
ANSWER = long_text(24_000)
ALTERNATIVES = 20


def request_of(prompt: str) -> bytes:
    asked = {"stream": True, "max_tokens": len(ANSWER), "logprobs": True, "top_logprobs": ALTERNATIVES}
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], **asked}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_whole(client: socket.socket) -> list[dict]:
    """The events of a stream up to its end."""
    client.settimeout(30)
    received = bytearray()
    while portion := client.recv(1 << 20):
        received += portion
    lines = [line[6:] for line in received.splitlines() if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def test_an_answer_that_nobody_reads_lends_its_slot_and_is_whole_when_it_is_read(tmp_path):
    script = fake_model(tmp_path, answer=ANSWER)
    model = {"slots": 1, "context": 32_768}
    tree = fake_tree(script, model=model, limits={"max_tokens": len(ANSWER)})
    with running_daemon(tree, tmp_path) as daemon, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", daemon.port))
        client.sendall(request_of("long"))
        wait_until(lambda: daemon.status()["counters"]["completion_tokens"] > 0, "the answer to begin")
        for _ in range(2):
            assert daemon.chat("next", max_tokens=3)[1]["choices"][0]["message"]["content"] == ANSWER[:3]
        counters = daemon.status()["counters"]
        assert counters["finished"] == 2  # the first has not come to its end
        assert counters["completion_tokens"] < len(ANSWER)
        events = read_whole(client)
        choices = [event["choices"][0] for event in events if event["choices"]]
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == ANSWER
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
        counters = daemon.status()["counters"]
        assert (counters["finished"], counters["failed"], counters["engine_restarts"]) == (3, 0, 0)
