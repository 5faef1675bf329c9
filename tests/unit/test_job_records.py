"""A job's order is checked before anything is done about it, and the error names the field."""

from __future__ import annotations

import json

import pytest

from edged.api.errors import BadRequest
from edged.maintenance.records import MAX_ORDER_BYTES, TYPES, Order, decode_order

SHA256 = "0" * 64


@pytest.mark.parametrize(
    ("job_type", "order"),
    [
        ("pull", {"model": "qwen3.5-2b"}),
        ("pull", {"model": "qwen3.5-2b:Q4_K_M"}),
        ("pull", {"url": "http://10.0.0.5/m.gguf", "sha256": SHA256, "name": "house", "quant": "Q8_0"}),
        ("switch", {"model": "house"}),
        ("switch", {"model": "configured"}),
        ("bench", {}),
        ("update", {}),
    ],
)
def test_a_good_order_is_read_with_and_without_its_state(job_type, order):
    read = decode_order(job_type, json.dumps(order).encode())
    assert read == Order(**order) == decode_order(job_type, json.dumps(order | {"state": "init"}).encode())


@pytest.mark.parametrize(
    ("job_type", "order", "named"),
    [
        ("pull", {}, "model"),
        ("switch", {}, "model"),
        ("switch", {"url": "http://10.0.0.5/m.gguf", "sha256": SHA256}, "sha256"),
        ("bench", {"model": "x"}, "model"),
        ("pull", {"model": "--trust"}, "model"),
        ("pull", {"model": "../../etc/passwd"}, "model"),
        ("pull", {"model": "a", "name": "b"}, "name"),
        ("pull", {"url": "file:///etc/passwd", "sha256": SHA256}, "url"),
        ("pull", {"url": "http://a b", "sha256": SHA256}, "url"),
        ("pull", {"url": "http://10.0.0.5/m.gguf"}, "sha256"),
        ("pull", {"url": "http://10.0.0.5/m.gguf", "sha256": "F" * 64}, "sha256"),
        ("pull", {"url": "http://10.0.0.5/m.gguf", "sha256": SHA256, "name": "--name"}, "name"),
        ("pull", {"model": "a", "state": "executing"}, "state"),
        ("pull", {"model": "a", "trust": True}, "trust"),
        ("pull", {"model": 7}, "model"),
        ("switch", {"model": "a", "ts": 1}, "ts"),
    ],
)
def test_a_wrong_field_is_named(job_type, order, named):
    with pytest.raises(BadRequest, match=named):
        decode_order(job_type, json.dumps(order).encode())


@pytest.mark.parametrize(
    "payload", [b"{", b"[]", b"\xff", b"null", b" " * (MAX_ORDER_BYTES + 1), b"[" * 4000]
)
@pytest.mark.parametrize("job_type", TYPES)
def test_what_is_no_order_is_refused_and_nothing_else_escapes(job_type, payload):
    with pytest.raises(BadRequest):
        decode_order(job_type, payload)


def test_a_cancellation_needs_nothing_else():
    assert decode_order("pull", b'{"state": "cancelled"}').state == "cancelled"
