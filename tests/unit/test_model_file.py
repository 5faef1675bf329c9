"""The check of a model file against its digest, before a worker is told to load it."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc

import pytest

from edged.api.errors import ModelUnusable
from edged.engine.modelfile import check_model

MIB = 1 << 20


def test_checking_a_large_file_takes_little_memory(tmp_path):
    model = tmp_path / "large.gguf"
    with model.open("wb") as file:
        file.truncate(96 * MIB)
    digest = hashlib.sha256(bytes(96 * MIB)).hexdigest()
    tracemalloc.start()
    try:
        asyncio.run(check_model(model, digest, tmp_path / "model.json"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "model.json").exists()
    assert peak_bytes < 4 * MIB


def test_a_digest_over_several_chunks_and_a_rest_is_right(tmp_path):
    model = tmp_path / "odd.gguf"
    model.write_bytes(bytes(range(256)) * (2 * MIB // 256) + b"rest")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    asyncio.run(check_model(model, digest, tmp_path / "model.json"))
    with pytest.raises(ModelUnusable, match="SHA-256"):
        asyncio.run(check_model(model, digest[::-1], tmp_path / "other.json"))


def test_a_wrong_file_is_refused_again_without_being_read_again(tmp_path, caplog):
    model, memory = tmp_path / "wrong.gguf", tmp_path / "model.json"
    model.write_bytes(b"wrong")
    caplog.set_level("INFO")
    for _ in range(2):
        with pytest.raises(ModelUnusable, match="SHA-256"):
            asyncio.run(check_model(model, "0" * 64, memory))
    assert len([record for record in caplog.records if "checking" in record.message]) == 1
    model.write_bytes(b"right now")
    asyncio.run(check_model(model, hashlib.sha256(b"right now").hexdigest(), memory))


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_a_missing_file_is_named(tmp_path, sha256):
    with pytest.raises(ModelUnusable, match=r"no\.gguf cannot be read: No such file"):
        asyncio.run(check_model(tmp_path / "no.gguf", sha256, tmp_path / "model.json"))
