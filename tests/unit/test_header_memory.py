"""The memory of any file from its header's own keys: the same as the catalogue's, or one clear refusal."""

from __future__ import annotations

import io

import msgspec
import pytest

from edgectl.models.gguf import read_header
from edgectl.models.replica_plan import plan_replica
from edgectl.planning.catalog import load_catalog
from edgectl.planning.header_memory import estimate_header_memory, geometry_of_header
from edgectl.planning.memory import estimate_memory, mapped_bytes
from edgectl.planning.repack import repack_types, repacked_bytes
from edged.api.errors import ModelUnusable
from tests.unit.test_planning_memory import GEMMA3_270M, QWEN3_0_6B

CATALOG = load_catalog()
NEED = {"context_tokens": 4096, "slots": 2, "ubatch_tokens": 64}


def header_of(arch, geometry, quant="Q8_0"):
    plan = plan_replica(arch, geometry, quant, context_tokens=32_768)
    size = len(plan.header()) + plan.weights_bytes
    return read_header(_Sized(plan.header(), size))


class _Sized(io.BytesIO):
    """A file whose weights need not be there: only its end is looked at."""

    def __init__(self, header: bytes, size: int) -> None:
        super().__init__(header)
        self._size = size

    def seek(self, offset, whence=0):
        return self._size if whence == 2 else super().seek(offset, whence)


@pytest.fixture(scope="module")
def headers():
    """Read once: a header of 10 MB takes half a second."""
    small, mixture = CATALOG.model("qwen3.5-0.8b"), CATALOG.model("qwen3.5-35b-a3b")
    return {
        "qwen35": (header_of(small.arch, small.geometry), small.geometry),
        "qwen35moe": (header_of(mixture.arch, mixture.geometry), mixture.geometry),
        "qwen3": (header_of("qwen3", QWEN3_0_6B), QWEN3_0_6B),
        "gemma3": (header_of("gemma3", GEMMA3_270M), GEMMA3_270M),
    }


@pytest.mark.parametrize("arch", ["qwen35", "qwen35moe", "qwen3", "gemma3"])
def test_a_header_describes_the_network_that_it_was_written_from(headers, arch):
    header, geometry = headers[arch]
    found = geometry_of_header(header)
    assert found.merges == header.metadata["tokenizer.ggml.merges"].length
    assert msgspec.structs.replace(found, merges=geometry.merges) == geometry


@pytest.mark.parametrize("arch", ["qwen35", "qwen35moe", "qwen3"])
def test_header_and_catalogue_foretell_the_same_memory_within_one_percent(headers, arch):
    header, geometry = headers[arch]
    size = mapped_bytes(geometry, header.file_size_bytes)
    catalogued = estimate_memory(geometry, size, **NEED).worker_bytes
    assert estimate_header_memory(header, **NEED).worker_bytes == pytest.approx(catalogued, rel=0.01)


def test_a_prediction_head_is_no_layer_with_a_cache(headers):
    header, geometry = headers["qwen35"]
    keys = {**header.metadata, "qwen35.block_count": 25, "qwen35.nextn_predict_layers": 1}
    assert geometry_of_header(msgspec.structs.replace(header, metadata=keys)).layers == geometry.layers


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"general.architecture": "mamba"}, "mamba"),
        ({"qwen35.block_count": 0}, "block_count"),
        ({"qwen35.block_count": 23}, "23 layers"),
        ({"qwen35.block_count": "24"}, "block_count"),
        ({"qwen35.attention.head_count": True}, "head_count"),
        ({"qwen35.embedding_length": 1 << 40}, "embedding_length"),
        ({"qwen35.nextn_predict_layers": 30}, "contradict"),
        ({"qwen35.ssm.state_size": -1}, "ssm.state_size"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_with_the_key_at_fault(headers, change, word):
    header, _ = headers["qwen35"]
    broken = msgspec.structs.replace(header, metadata={**header.metadata, **change})
    with pytest.raises(ModelUnusable, match=word) as caught:
        estimate_header_memory(broken, **NEED)
    assert caught.value.hint


def test_what_is_repacked_depends_on_the_cpu():
    entry, file = CATALOG.find("qwen3.5-0.8b:Q4_K_M")
    tensors = plan_replica(entry.arch, entry.geometry, file.quant, context_tokens=4096).tensors
    # Measured with AVX2: 160.9 MiB more anonymous memory than without repacking.
    assert repacked_bytes(tensors, {"avx2"}) / (1 << 20) == pytest.approx(160.875)
    assert repacked_bytes(tensors, {"sse4_2"}) == 0
    # Arm repacks six bits too, and with them a copy of the embedding that is the output head as well.
    embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
    assert repacked_bytes(tensors, {"asimddp"}) > repacked_bytes(tensors, {"avx2"}) + embedding.size_bytes
    assert "Q2_K" in repack_types({"avx2", "avx512f"})
    assert "Q2_K" not in repack_types({"avx2"})


def test_an_embedding_beside_an_output_head_of_its_own_is_not_repacked():
    entry, _ = CATALOG.find("qwen3.5-9b:Q4_K_M")
    tensors = plan_replica(entry.arch, entry.geometry, "Q4_0", context_tokens=4096).tensors
    without = tuple(tensor for tensor in tensors if tensor.name != "token_embd.weight")
    assert repacked_bytes(tensors, {"avx2"}) == repacked_bytes(without, {"avx2"}) > 0
