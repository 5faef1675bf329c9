"""The plan of a replica is a header that the reader of real files understands, copied or made up."""

from __future__ import annotations

import io
import tempfile

import msgspec
import pytest

from edgectl.errors import DataInvalid
from edgectl.models.gguf import Array, Header, read_header
from edgectl.models.gguf_types import STRING
from edgectl.models.gguf_writer import INT32, encode_header
from edgectl.models.replica_plan import TOKENIZER_ARRAYS, ReplicaPlan, plan_replica, replica_of_header
from edgectl.models.synthetic_tokenizer import tokenizer_metadata
from edgectl.models.tensor_plan import TensorSpec
from edgectl.planning.catalog import load_catalog
from tests.kit.model import smollm2
from tests.kit.tiny_network import tiny_network


def header_of(plan: ReplicaPlan, **options: object) -> Header:
    """What the reader says of ``plan`` once it is a file."""
    with tempfile.TemporaryFile() as file:
        header = plan.header()
        file.write(header)
        file.truncate(len(header) + plan.weights_bytes)
        return read_header(file, **options)


@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen3", "qwen35", "qwen35moe"])
def test_the_header_reads_back_as_it_was_planned(arch):
    plan = plan_replica(arch, tiny_network(arch), "Q4_K_M", context_tokens=4096)
    header = header_of(plan, keep=TOKENIZER_ARRAYS)
    assert header.architecture == arch
    assert (header.context_length, header.block_count) == (4096, 4)
    assert header.quantization == "Q4_K_M"
    assert [(t.name, t.shape, t.type_name) for t in header.tensors] == [
        (spec.name, spec.shape, spec.ggml_type) for spec in plan.tensors
    ]
    assert header.data_offset_bytes == len(plan.header())
    assert header.metadata["tokenizer.ggml.tokens"] == plan.metadata["tokenizer.ggml.tokens"]


def test_the_copy_of_a_header_is_the_same_file():
    plan = plan_replica("qwen35", tiny_network("qwen35"), "Q4_K_M", context_tokens=4096)
    copy = replica_of_header(header_of(plan, keep=TOKENIZER_ARRAYS))
    assert copy.header() == plan.header()
    assert copy.weights_bytes == plan.weights_bytes


@pytest.mark.model
def test_the_copy_of_a_real_header_is_as_long_and_describes_the_same_weights():
    real = read_header(smollm2(), keep=TOKENIZER_ARRAYS)
    copy = replica_of_header(real)
    assert len(copy.header()) == real.data_offset_bytes
    assert len(copy.header()) + copy.weights_bytes == real.file_size_bytes
    assert [tensor.name for tensor in copy.tensors] == [tensor.name for tensor in real.tensors]


@pytest.mark.model
def test_the_catalogue_alone_predicts_every_tensor_of_a_real_file():
    real = read_header(smollm2())
    entry = load_catalog().model("smollm2-135m-instruct")
    plan = plan_replica(entry.arch, entry.geometry, "Q4_1", context_tokens=8192)
    assert {(t.name, t.shape, t.type_name) for t in real.tensors} == {
        (spec.name, spec.shape, spec.ggml_type) for spec in plan.tensors
    }


def test_a_shallower_copy_drops_layers_and_what_is_listed_for_them():
    plan = plan_replica("qwen35", tiny_network("qwen35", layers=8), "Q4_K_M", context_tokens=64)
    heads = Array(INT32, 8, (2, 2, 2, 2, 4, 4, 4, 4))
    plan = msgspec.structs.replace(plan, metadata={**plan.metadata, "qwen35.attention.head_count_kv": heads})
    cut = replica_of_header(header_of(plan, keep=TOKENIZER_ARRAYS), layers=4)
    assert cut.metadata["qwen35.block_count"] == 4
    assert cut.metadata["qwen35.attention.head_count_kv"] == Array(INT32, 4, (2, 2, 2, 2))
    assert not any(spec.name.startswith(("blk.4.", "blk.7.")) for spec in cut.tensors)
    assert {"token_embd.weight", "blk.3.attn_q.weight", "output_norm.weight"} <= {
        spec.name for spec in cut.tensors
    }


def test_a_copy_deeper_than_the_model_is_refused():
    plan = plan_replica("llama", tiny_network("llama"), "Q8_0", context_tokens=64)
    with pytest.raises(DataInvalid, match="4 layers, not 5"):
        replica_of_header(header_of(plan, keep=TOKENIZER_ARRAYS), layers=5)


def test_a_header_read_without_its_vocabulary_cannot_be_copied():
    plan = plan_replica("llama", tiny_network("llama", vocab=70_000), "Q8_0", context_tokens=64)
    with pytest.raises(DataInvalid, match=r"tokenizer\.ggml\.tokens"):
        replica_of_header(header_of(plan))


def test_values_keep_their_kind():
    metadata = {
        "general.architecture": "x", "a": -3, "b": 7, "c": 1 << 40, "d": True, "e": 0.5, "f": "é",
        "g": Array(STRING, 2, ("a", "")), "h": Array(INT32, 2, (-1, 2)), "i": Array(7, 2, (True, False)),
    }  # fmt: skip
    header = read_header(io.BytesIO(encode_header(metadata, ())))
    assert header.metadata == metadata


def test_weights_lie_one_after_the_other_at_aligned_places():
    specs = (TensorSpec("a", (5,), "F32"), TensorSpec("b", (32, 3), "Q8_0"), TensorSpec("c", (1,), "F32"))
    data = encode_header({"general.architecture": "x", "general.alignment": 64}, specs, 64)
    header = read_header(io.BytesIO(data + bytes(64 + 128 + 64)))
    assert [tensor.offset_bytes for tensor in header.tensors] == [0, 64, 192]
    assert header.data_offset_bytes == len(data)


@pytest.mark.parametrize("vocab", [261, 300, 6000, 7000, 49_152, 248_320])
def test_a_made_up_vocabulary_has_different_tokens_and_a_merge_for_each_word(vocab):
    metadata = tokenizer_metadata(vocab)
    tokens = metadata["tokenizer.ggml.tokens"].items
    merges = metadata["tokenizer.ggml.merges"].items
    assert len(tokens) == len(set(tokens)) == vocab == metadata["tokenizer.ggml.token_type"].length
    known = set(tokens[:256])
    assert len(known) == 256
    for word, merge in zip(tokens[256:], merges, strict=False):
        left, right = merge.split(" ")
        assert left in known
        assert right in known
        assert left + right == word
        known.add(word)
    assert tokens[metadata["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(DataInvalid, match="260 tokens"):
        tokenizer_metadata(260)


def test_the_header_of_a_replica_is_as_large_as_the_published_one():
    entry = load_catalog().model("qwen3.5-0.8b")
    plan = plan_replica(entry.arch, entry.geometry, "Q8_0", context_tokens=entry.context_max_tokens)
    size_bytes = len(plan.header()) + plan.weights_bytes
    assert size_bytes == pytest.approx(entry.file("Q8_0").bytes, rel=0.0005)
