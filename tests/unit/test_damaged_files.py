"""A small file of the daemon's own that was damaged, by a power cut say, is left aside and never fatal."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from edged.engine.modelfile import check_model
from edged.engine.selftest import remembered
from edged.host.switched import FILE, read_switched
from edged.maintenance.journal import Journal


@pytest.fixture(
    params=[b"", b"\0" * 64, b"{", b"[]", b'{"key": "\xff"}', b'{"sha256": "\xff"}', b'{"job": "\xff"}',
            b'[{"id": "\xff"}]', b"[" * 100_000],
    ids=lambda damage: str(damage[:16]),
)  # fmt: skip
def damage(request):
    return request.param


def test_what_the_selftest_found_is_found_anew(tmp_path, damage):
    (tmp_path / "selftest.json").write_bytes(damage)
    assert remembered(tmp_path / "selftest.json", "key") is None


def test_the_digest_of_the_model_is_taken_anew(tmp_path, damage):
    (tmp_path / "model.json").write_bytes(damage)
    (tmp_path / "m.gguf").write_bytes(b"model")
    right = hashlib.sha256(b"model").hexdigest()
    asyncio.run(check_model(tmp_path / "m.gguf", right, tmp_path / "model.json"))


def test_the_configured_model_is_served(tmp_path, damage):
    (tmp_path / FILE).write_bytes(damage)
    assert read_switched(tmp_path) is None


def test_the_jobs_of_before_are_forgotten(tmp_path, damage):
    (tmp_path / "jobs.json").write_bytes(damage)
    assert Journal(tmp_path / "jobs.json").read() == []
