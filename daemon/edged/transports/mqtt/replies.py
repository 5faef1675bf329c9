"""Turns events into the payloads clients read, split where one message would be too large (pure).

``response/<client>/<op>`` carries nothing but terminal messages, because a simple requester
(``mosquitto_rr``, a blocking device loop) takes the first message there for the answer::

    {"id":"7","ok":true,"part":1,"parts":1,"text":"Yes.","finish":"stop","usage":{...},
     "t_queue_ms":0,"t_first_ms":840,"t_total_ms":1320}
    {"id":"7","ok":false,"part":1,"parts":1,"error":{"code":"busy","message":"...","retry_after_s":4.0}}

An answer in several parts has ``text`` in each; join them in the order of ``part``. ``finish``,
``usage`` and the times stand in the last part; ``usage`` and then the times are left out where
``max_bytes`` has no room for them. ``id`` is null when a broken request had none that could be read.

``stream/<client>`` carries the way there, at QoS 0. A lost message leaves a gap in ``seq``; the
response has the whole text::

    {"kind":"accepted","id":"7","position":0,"eta_s":1.5}
    {"kind":"delta","id":"7","seq":0,"delta":"Ye","done":false}
    {"kind":"done","id":"7","seq":1,"delta":"","done":true,"ok":true}

A thought comes as messages of kind ``reasoning``, numbered for themselves, and once more as ``reasoning``
in the response. ``tool_calls`` and ``logprobs`` are only there; ``arguments`` is the text of a JSON object::

    {"kind":"reasoning","id":"7","seq":0,"delta":"Hm","done":false}
    {"id":"7","ok":true,"part":1,"parts":1,"text":"","finish":"tool_calls",
     "tool_calls":[{"id":"call_1","name":"open_door","arguments":"{}"}],...}

What of these has no room in ``max_bytes`` is left out, but for the calls, which then are an error.

The answer to ``classify`` has the likeliest choice as ``text`` and ``scores`` beside ``usage``. The answer to
``embed`` has no text but ``embeddings``, one string for each input: base64 of little-endian 32-bit floats. In
several parts each has some of them, in order::

    {"id":"8","ok":true,"part":1,"parts":1,"text":"open","finish":"stop",
     "scores":[{"choice":"open","probability":0.9,"logprob":-0.4,"tokens":1},...],...}
    {"id":"9","ok":true,"part":1,"parts":1,"embeddings":["zczMPQ=="],"finish":"stop",...}

``answer`` carries plain text; a failure there is one line, ``error: <code>: <message>``.
"""

from __future__ import annotations

from base64 import b64encode
from struct import pack
from typing import TYPE_CHECKING, Any

import msgspec

from edged.api.errors import TooLarge
from edged.api.events import Failed, Finished
from edged.transports.mqtt.errors import WIRE_CODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.api.events import Accepted, Terminal, TokenLogprob

_ONE_BYTE_ESCAPES = frozenset('"\\\b\f\n\r\t')
_LONGEST_CHAR_BYTES = 6  # \u001f
_AROUND_STRING_BYTES = 3  # quotes and a comma


def response(terminal: Terminal, limit_bytes: int) -> list[bytes]:
    """The messages of ``terminal``, each at most ``limit_bytes``; raises TooLarge when nothing fits."""
    if isinstance(terminal, Failed):
        return [_failure(terminal, limit_bytes)]
    if terminal.embeddings:
        return _vectors(terminal, limit_bytes)
    whole = _encode(_head(terminal.id, 1, 1) | {"text": terminal.text} | _facts(terminal))
    if len(whole) <= limit_bytes:
        return [whole]
    most = len(terminal.text) + 1  # never more parts than characters, and one for the facts
    room = limit_bytes - len(_encode(_head(terminal.id, most, most) | {"text": ""}))
    facts, facts_bytes = _facts_that_fit(terminal, room)
    if terminal.tool_calls and "tool_calls" not in facts:
        why = "the functions that the model wants called do not fit into max_bytes"
        return [_failure(Failed.of(terminal.id, TooLarge(why)), limit_bytes)]
    chunks = split(terminal.text, room, json_bytes)
    if json_text_bytes(chunks[-1]) + facts_bytes > room:
        chunks.append("")
    parts = [_head(terminal.id, n, len(chunks)) | {"text": chunk} for n, chunk in enumerate(chunks, 1)]
    parts[-1] |= facts
    return [_encode(part) for part in parts]


def answer(terminal: Terminal, limit_bytes: int) -> list[bytes]:
    """The same as plain text, for the ``answer`` topic: one message, or several in order."""
    if isinstance(terminal, Failed):
        line = f"error: {wire_code(terminal.code)}: {' '.join(terminal.message.split())}"
        return [split(line, limit_bytes, utf8_bytes)[0].encode()]
    return [chunk.encode() for chunk in split(terminal.text, limit_bytes, utf8_bytes)]


def accepted(event: Accepted) -> bytes:
    return _encode({"kind": "accepted", "id": event.id, "position": event.position, "eta_s": event.eta_s})


def deltas(request_id: str, first_seq: int, text: str, limit_bytes: int, kind: str = "delta") -> list[bytes]:
    """``text`` as numbered pieces of the stream."""
    empty = {"kind": kind, "id": request_id, "seq": first_seq + len(text), "delta": "", "done": False}
    chunks = split(text, limit_bytes - len(_encode(empty)), json_bytes)
    return [_encode(empty | {"seq": seq, "delta": chunk}) for seq, chunk in enumerate(chunks, first_seq)]


def done(terminal: Terminal, seq: int) -> bytes:
    ok = isinstance(terminal, Finished)
    return _encode({"kind": "done", "id": terminal.id, "seq": seq, "delta": "", "done": True, "ok": ok})


def wire_code(code: str) -> str:
    """What MQTT clients read for an error code of edged."""
    return WIRE_CODES.get(code, "internal")


def split(text: str, limit_bytes: int, cost: Callable[[str], int]) -> list[str]:
    """``text`` in pieces that cost at most ``limit_bytes`` each; at least one, whole code points only.

    ``cost`` is what one code point takes on the wire. Raises TooLarge when not even one would fit.
    """
    if limit_bytes < _LONGEST_CHAR_BYTES:
        raise TooLarge("max_bytes leaves no room for text")
    pieces: list[str] = []
    start = used = 0
    for position, char in enumerate(text):
        size = cost(char)
        if used + size > limit_bytes:
            pieces.append(text[start:position])
            start, used = position, 0
        used += size
    return [*pieces, text[start:]]


def utf8_bytes(char: str) -> int:
    return len(char.encode())


def json_bytes(char: str) -> int:
    """Bytes of one code point inside a JSON string, as msgspec writes it (RFC 8259, section 7)."""
    if char in _ONE_BYTE_ESCAPES:
        return 2
    return _LONGEST_CHAR_BYTES if char < " " else len(char.encode())


def json_text_bytes(text: str) -> int:
    return sum(map(json_bytes, text))


def _head(request_id: str | None, part: int, parts: int, *, ok: bool = True) -> dict[str, Any]:
    return {"id": request_id or None, "ok": ok, "part": part, "parts": parts}


def _vectors(terminal: Finished, limit_bytes: int) -> list[bytes]:
    vectors = [b64encode(pack(f"<{len(one)}f", *one)).decode() for one in terminal.embeddings]
    most = len(vectors) + 1
    room = limit_bytes - len(_encode(_head(terminal.id, most, most) | {"embeddings": []}))
    if max(map(len, vectors)) + _AROUND_STRING_BYTES > room:
        why = f"an embedding here takes {len(vectors[0])} bytes and does not fit into max_bytes"
        return [_failure(Failed.of(terminal.id, TooLarge(why)), limit_bytes)]
    groups: list[list[str]] = [[]]
    left = room
    for vector in vectors:
        size = len(vector) + _AROUND_STRING_BYTES
        if size > left:
            groups.append([])
            left = room
        groups[-1].append(vector)
        left -= size
    facts, facts_bytes = _facts_that_fit(terminal, room)
    if facts_bytes > left:
        groups.append([])
    parts = [_head(terminal.id, n, len(groups)) | {"embeddings": group} for n, group in enumerate(groups, 1)]
    parts[-1] |= facts
    return [_encode(part) for part in parts]


def _facts(terminal: Finished) -> dict[str, Any]:
    times = terminal.timings
    return {
        "finish": terminal.finish,
        **({"scores": terminal.scores} if terminal.scores else {}),
        **({"tool_calls": terminal.tool_calls} if terminal.tool_calls else {}),
        **({"reasoning": terminal.reasoning} if terminal.reasoning else {}),
        **({"logprobs": list(map(_logprob, terminal.logprobs))} if terminal.logprobs else {}),
        "usage": terminal.usage,
        "t_queue_ms": round(times.queue_ms),
        "t_first_ms": round(times.first_ms),
        "t_total_ms": round(times.total_ms),
    }


def _logprob(one: TokenLogprob) -> dict[str, Any]:
    said: dict[str, Any] = {"token": one.token.decode("utf-8", "replace"), "logprob": one.logprob}
    if one.top:
        said["top"] = [[other.token.decode("utf-8", "replace"), other.logprob] for other in one.top]
    return said


def _facts_that_fit(terminal: Finished, room: int) -> tuple[dict[str, Any], int]:
    """As many facts as ``room`` bytes hold beside an empty text, and their size with the comma."""
    facts = _facts(terminal)
    for dropped in (
        "",
        "logprobs",
        "reasoning",
        "usage",
        "t_queue_ms",
        "t_first_ms",
        "t_total_ms",
        "scores",
        "tool_calls",
        "finish",
    ):
        facts.pop(dropped, None)
        size = len(_encode(facts)) - 1 if facts else 0  # its braces go, a comma comes
        if size <= room:
            return facts, size
    return {}, 0


def _failure(failed: Failed, limit_bytes: int) -> bytes:
    error: dict[str, Any] = {"code": wire_code(failed.code), "message": ""}
    if failed.retry_after_s is not None:
        error["retry_after_s"] = round(failed.retry_after_s, 1)
    body = _head(failed.id, 1, 1, ok=False)
    for dropped in ("", "retry_after_s", "message", "part", "parts"):  # the code says what matters
        error.pop(dropped, None)
        body.pop(dropped, None)
        payload = _encode(body | {"error": error})
        room = limit_bytes - len(payload)
        if room >= _LONGEST_CHAR_BYTES and "message" in error:
            error["message"] = split(failed.message, room, json_bytes)[0]
            payload = _encode(body | {"error": error})
        if room >= 0:
            return payload
    raise TooLarge("not even an error fits into max_bytes")


def _encode(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value)
